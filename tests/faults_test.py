"""A night of faults: all fails at random, and the collector is killed."""

import asyncio
import contextlib
import pathlib
import random
import signal
import subprocess
import sys
import time

from absl.testing import absltest
import pytest

from routing.shards import manifest as manifest_lib
from routing.shards import reader
from tests import fault_collector
from tests import fault_server
from tests import openai_server
from tests import scripted_pair

_ROOT = pathlib.Path(__file__).parents[1]
_KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)


@contextlib.contextmanager
def _servers():
  """A failing server for each model; gives their URLs and their faults."""
  with contextlib.ExitStack() as stack:
    urls, faults = [], []
    for engine in scripted_pair.make_engines(2):
      model = openai_server.Model(engine, split=fault_server.split)
      faults.append(
          fault_server.Faults(
              openai_server.make_app(model), silence=4.0, seed=engine.route
          )
      )
      urls.append(stack.enter_context(openai_server.serve(faults[-1])))
    yield urls, faults


def _num_shards(directory: pathlib.Path) -> int:
  path = directory / manifest_lib.FILE_NAME
  return len(manifest_lib.load(directory).shards) if path.exists() else 0


def _outcome(ladder):
  """What a ladder says, without what it cost."""
  return (
      ladder.problem,
      ladder.is_correct,
      [(s.text, s.is_final, s.log_probs.tolist()) for s in ladder.steps],
      [(c.step, c.route, c.text, c.is_correct) for c in ladder.completions],
  )


class NightTest(absltest.TestCase):

  def _run(self, directory, urls, number=None, num_shards=0):
    """A collector; killed by signal `number` after so many shards."""
    command = [sys.executable, '-m', 'tests.fault_collector', directory, *urls]
    child = subprocess.Popen(
        list(map(str, command)), cwd=_ROOT, stderr=subprocess.PIPE, text=True
    )
    before = _num_shards(directory)
    if number is not None:
      while child.poll() is None:
        if _num_shards(directory) >= before + num_shards:
          child.send_signal(number)
          break
        time.sleep(0.02)
    _, errors = child.communicate(timeout=900)
    return child.returncode, errors

  @pytest.mark.slow
  def test_every_problem_is_on_disk_exactly_once(self):
    directory = pathlib.Path(self.create_tempdir().full_path) / 'train'
    rng, counts = random.Random(0), []
    with _servers() as (urls, faults):
      for number in _KILLS:
        code, errors = self._run(directory, urls, number, rng.randint(2, 10))
        if number == signal.SIGTERM:
          self.assertEqual(code, 1)
          self.assertRegex(errors, 'Got SIGTERM. .* The same command continues')
        else:
          self.assertEqual(code, -number, errors)
        counts.append(_num_shards(directory))
      code, errors = self._run(directory, urls)
    self.assertEqual(code, 0, errors)
    # Each was killed at work, and each went on where the one before was.
    total = fault_collector.NUM_PROBLEMS // fault_collector.SHARD_SIZE
    self.assertEqual(sorted({0, *counts, total}), [0, *counts, total])
    self._check_all_faults_met(faults)
    self._check_what_is_there(directory)

  def _check_all_faults_met(self, faults):
    met = sum((f.counts for f in faults), start=type(faults[0].counts)())
    for way in ('status', 'silent', 'dropped', 'half', 429, 500, 503):
      self.assertGreater(met[way], 0, way)

  def _check_what_is_there(self, directory):
    problems = fault_collector.make_problems()
    refused = [
        problem.id
        for problem in problems
        if fault_server.is_refused(problem.question, 40)
    ]
    failures = manifest_lib.load(directory).failures
    self.assertEqual([failure.id for failure in failures], refused)
    self.assertGreater(len(refused), 3)
    self.assertIn('HTTP 400', failures[0].reason)
    expected = {}
    rest = [p for p in problems if p.id not in refused]
    asyncio.run(
        fault_collector.COLLECT(
            rest,
            scripted_pair.make_engines(2),
            expected.__setitem__,
            concurrency=8,
        )
    )
    self.assertEqual(
        [_outcome(ladder) for ladder in reader.read_ladders(directory)],
        [_outcome(expected[i]) for i in range(len(rest))],
    )


if __name__ == '__main__':
  absltest.main()
