"""Tests that a comparison that is stopped says what it has kept."""

import asyncio
import os
import pathlib
import signal
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import compare_arithmetic
from experiments import compare
from routing.engines import engine as engine_lib
from routing.shards import lock as lock_lib


class StoppedTest(parameterized.TestCase):

  @parameterized.parameters(signal.SIGINT, signal.SIGTERM)
  def test_it_says_what_is_kept(self, number):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = compare_arithmetic.get_config('smoke')
    is_closed = []

    def mine(*_):
      """Would be called if nobody heeded the signal."""

    before = signal.signal(signal.SIGTERM, mine)
    self.addCleanup(signal.signal, signal.SIGTERM, before)

    async def answer():
      try:
        os.kill(os.getpid(), number)
        await asyncio.sleep(1)
      finally:
        is_closed.append(True)

    with (
        mock.patch.object(
            compare, '_compare', lambda *_: asyncio.run(answer())
        ),
        self.assertRaisesRegex(
            engine_lib.Stop,
            f'Got {number.name}. Replies, live answers and finished routers '
            'are kept. The same command continues',
        ),
    ):
      compare.compare(config, workdir)
    self.assertEqual(is_closed, [True])
    self.assertIs(signal.getsignal(signal.SIGTERM), mine)
    # Another process may compare there now.
    lock_lib.Lock(workdir / compare.FOLDER).release()


if __name__ == '__main__':
  absltest.main()
