"""Tests of the clock of compiling."""

from absl.testing import absltest
import jax
import jax.numpy as jnp

from routing.training import compile_time

_EVENT = '/jax/core/compile/backend_compile_duration'


class CompileTimeTest(absltest.TestCase):

  def _total(self, *parts):
    """Seconds after parts of (end, duration), in the order of their ends."""
    now = [0.0]
    watch = compile_time.CompileTime(clock=lambda: now[0])
    for now[0], duration in parts:
      watch(_EVENT, duration, fun_name='f')
    return watch.seconds()

  def test_each_second_counts_once(self):
    self.assertEqual(self._total((4.0, 2.0), (9.0, 3.0)), 5.0)  # Apart.
    self.assertEqual(self._total((4.0, 2.0), (5.0, 2.0)), 3.0)  # 2-4, 3-5.
    self.assertEqual(self._total((4.0, 1.0), (5.0, 4.0)), 4.0)  # 3-4 in 1-5.
    self.assertEqual(
        self._total((2.0, 1.0), (4.0, 1.0), (5.0, 4.5)), 4.5
    )  # 1-2 and 3-4 in 0.5-5.

  def test_other_events_do_not_count(self):
    watch = compile_time.CompileTime()
    watch('/jax/checkpoint/write_duration', 3.0)
    self.assertEqual(watch.seconds(), 0.0)

  def test_jax_tells_of_its_compiling(self):
    watch = compile_time.watched()
    self.assertIs(watch, compile_time.watched())
    before = watch.seconds()
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3))).block_until_ready()
    self.assertGreater(watch.seconds(), before)


if __name__ == '__main__':
  absltest.main()
