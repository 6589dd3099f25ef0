"""Tests of the plan of runs behind the table of protocols."""

import functools
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic_trees
from experiments import evaluate
from experiments import protocols
from experiments import workdirs


class PlanTest(parameterized.TestCase):

  @parameterized.parameters(
      *((run.name, run.changes) for run in protocols.RUNS)
  )
  def test_every_run_is_a_configuration(self, name, changes):
    run = protocols.Run(name, changes)
    config = arithmetic_trees.get_config().lock()
    got = protocols.configured(config, run)
    for field, value in changes.items():
      self.assertEqual(
          functools.reduce(lambda x, key: x[key], field.split('.'), got), value
      )
    # Closed form and memory do not go together.
    if got.objective.estimator == 'exact':
      self.assertEqual(got.network.kind, 'mlp')
    self.assertEqual(arithmetic_trees.get_config().to_dict(), config.to_dict())

  def test_names(self):
    self.assertEqual(protocols.named(None), list(protocols.RUNS))
    self.assertEqual(
        [x.name for x in protocols.named(['switch_exact', 'redraft_exact'])],
        ['redraft_exact', 'switch_exact'],
    )
    with self.assertRaisesRegex(ValueError, "Unknown runs \\['x'\\]"):
      protocols.named(['x'])

  def test_what_is_finished_is_kept_for_its_own_configuration_alone(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = arithmetic_trees.get_config()
    last, first = protocols.named(['redraft_exact', 'switch_exact'])[::-1]
    for run in (last, first):
      done = workdirs.claim(
          workdir / run.name, protocols.configured(config, run)
      )
      (done / evaluate.RESULTS_FILE).write_text(json.dumps(run.name))
      protocols.finish(config, workdir, run, 'nowhere')  # Nothing is run.
    self.assertEqual(protocols.finished(workdir), [first.name, last.name])
    config.trees.train = 3_000
    with self.assertRaisesRegex(ValueError, 'trees.train is 0 there, 3000'):
      protocols.finish(config, workdir, first, 'nowhere')


if __name__ == '__main__':
  absltest.main()
