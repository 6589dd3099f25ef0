"""Tests of the processes that compare expressions."""

import concurrent.futures
import gc
import os
import subprocess
import sys
import time

from absl.testing import absltest
import psutil

from routing.grading import equivalence
from routing.grading import pool as pool_lib
from tests import checkout

# It has too many digits for any memory, and no signal handler stops it.
_TOWER = '9^{9^{9^{9}}} + x'
_MEMORY = 2**30


def _children(of: int = 0) -> list[psutil.Process]:
  """Returns the comparing processes that a process has started."""
  children = psutil.Process(of or os.getpid()).children(recursive=True)
  return [x for x in children if 'math_worker.py' in ' '.join(x.cmdline())]


class PoolTest(absltest.TestCase):

  def make(self, size=1, timeout=20.0, memory=_MEMORY):
    pool = pool_lib.Pool(size, timeout, memory)
    self.addCleanup(pool.close)
    return pool

  def test_processes_start_when_they_are_needed(self):
    pool = self.make(size=3)
    self.assertEmpty(_children())
    for _ in range(2):  # One at a time needs only one.
      self.assertEqual(pool.compare('2x', 'x + x'), (True, 'equal'))
    self.assertLen(_children(), 1)

  def test_a_late_verdict_is_wrong_and_the_next_one_is_right(self):
    pool = self.make(timeout=1.0)
    self.assertEqual(pool.compare('2x', 'x + x'), (True, 'equal'))
    (child,) = _children()
    start = time.monotonic()
    self.assertEqual(pool.compare(_TOWER, '7 + x'), (False, 'timed out'))
    self.assertLess(time.monotonic() - start, 12 * 1.0 + 5.0)
    self.assertFalse(child.is_running(), 'the late process must be dead')
    self.assertEqual(pool.compare('2x', 'x + x'), (True, 'equal'))

  def test_one_late_comparison_does_not_hold_up_another(self):
    pool = self.make(size=2, timeout=3.0)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
      late = threads.submit(pool.compare, _TOWER, '7 + x')
      self.assertTrue(threads.submit(pool.compare, '2x', 'x + x').result()[0])
      self.assertFalse(late.done())
      self.assertEqual(late.result(), (False, 'timed out'))

  def test_memory_is_bounded(self):
    measured = self.make()
    self.assertTrue(measured.compare('2x', 'x + x')[0])
    (child,) = _children()
    memory = child.memory_info().vms + 32 * 2**20
    measured.close()
    pool = self.make(timeout=60.0, memory=memory)
    is_equal, reason = pool.compare('x' * 2**24, '7')  # Copied several times.
    self.assertFalse(is_equal)
    self.assertIn(reason, ('out of memory', 'the comparison crashed'))
    self.assertEqual(pool.compare('2x', 'x + x'), (True, 'equal'))

  def test_a_dead_process_is_replaced(self):
    pool = self.make()
    self.assertTrue(pool.compare('2x', 'x + x')[0])
    (child,) = _children()
    child.kill()
    child.wait()
    self.assertTrue(pool.compare('3x', 'x + 2x')[0])

  def test_closing_ends_all_processes_and_open_comparisons(self):
    pool = self.make(size=2, timeout=60.0)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
      self.assertTrue(pool.compare('2x', 'x + x')[0])
      open_one = threads.submit(pool.compare, _TOWER, '7 + x')
      time.sleep(0.5)
      pool.close()
      pool.close()
      with self.assertRaisesRegex(RuntimeError, 'closed'):
        open_one.result(timeout=30)
    self.assertEmpty(_children())
    with self.assertRaisesRegex(RuntimeError, 'closed'):
      pool.compare('2x', 'x + x')

  def test_a_pool_that_is_no_longer_used_ends_its_processes(self):
    pool = pool_lib.Pool(1, 20.0, _MEMORY)
    self.assertTrue(pool.compare('2x', 'x + x')[0])
    self.assertLen(_children(), 1)
    del pool
    gc.collect()
    self.assertEmpty(_children())

  def test_processes_end_with_the_one_that_started_them(self):
    code = (
        'from routing.grading import pool\n'
        f'p = pool.Pool(1, 20.0, {_MEMORY})\n'
        'p.compare("2x", "x + x")\n'
        'print("asked", flush=True)\n'
        'import time; time.sleep(600)'
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', code], cwd=checkout.ROOT, stdout=subprocess.PIPE
    )
    self.addCleanup(parent.communicate)
    self.addCleanup(parent.kill)
    self.assertEqual(parent.stdout.readline(), b'asked\n')
    children = _children(parent.pid)
    self.assertLen(children, 1)
    parent.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    self.assertEmpty(alive)

  def test_too_little_memory_to_start_says_so(self):
    pool = self.make(memory=2**20)
    with self.assertRaisesRegex(RuntimeError, 'memory 1 MiB'):
      pool.compare('2x', 'x + x')


class CacheTest(absltest.TestCase):

  def test_a_comparison_is_made_once(self):
    grade = equivalence.MathVerify(workers=1, timeout=1.0)
    self.addCleanup(grade.close)
    first = grade.compare(_TOWER, '7 + x')
    start = time.monotonic()
    self.assertEqual(grade.compare(_TOWER, '7 + x'), first)
    self.assertLess(time.monotonic() - start, 0.1)
    self.assertEqual(first.reason, 'timed out')

  def test_the_cache_is_bounded(self):
    grade = equivalence.MathVerify(workers=1, cache_size=2)
    self.addCleanup(grade.close)
    for i in (2, 3, 4, 2, 2):
      self.assertTrue(grade.compare(f'{i}x', f'x \\cdot {i}').is_correct)
    self.assertEqual(grade._compare.cache_info().misses, 4)
    self.assertEqual(grade._compare.cache_info().currsize, 2)

  def test_long_answers_are_not_cached_and_very_long_ones_not_compared(self):
    grade = equivalence.MathVerify(workers=1)
    self.addCleanup(grade.close)
    long = '1 + ' * 300 + 'x'
    self.assertTrue(grade.compare(long, '300 + x').is_correct)
    self.assertEqual(grade._compare.cache_info().currsize, 0)
    self.assertEqual(grade.compare('x + ' * 20_000, '2').reason, 'too long')


if __name__ == '__main__':
  absltest.main()
