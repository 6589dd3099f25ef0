"""Tests of the plan of runs behind the table of protocols."""

import functools
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic_redraft
from experiments import evaluate
from experiments.studies import protocol_runs


class PlanTest(parameterized.TestCase):

  @parameterized.parameters(
      *((run.name, run.changes) for run in protocol_runs.RUNS)
  )
  def test_every_run_is_a_configuration(self, name, changes):
    run = protocol_runs.Run(name, changes)
    config = arithmetic_redraft.get_config().lock()
    got = protocol_runs.configured(config, run)
    for field, value in changes.items():
      self.assertEqual(
          functools.reduce(lambda x, key: x[key], field.split('.'), got), value
      )
    # Closed form and memory do not go together.
    if got.objective.estimator == 'exact':
      self.assertEqual(got.network.kind, 'mlp')
    self.assertEqual(
        arithmetic_redraft.get_config().to_dict(), config.to_dict()
    )

  def test_names(self):
    self.assertEqual(protocol_runs.named(None), list(protocol_runs.RUNS))
    self.assertEqual(
        [
            x.name
            for x in protocol_runs.named(['switch_exact', 'redraft_exact'])
        ],
        ['redraft_exact', 'switch_exact'],
    )
    with self.assertRaisesRegex(ValueError, "Unknown runs \\['x'\\]"):
      protocol_runs.named(['x'])

  def test_finished_runs_are_in_the_order_of_the_table(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    for name in ('switch_exact', 'redraft_exact'):
      (workdir / name).mkdir()
      path = workdir / name / evaluate.RESULTS_FILE
      path.write_text(json.dumps(name))
    self.assertEqual(
        protocol_runs.finished(workdir), ['redraft_exact', 'switch_exact']
    )


if __name__ == '__main__':
  absltest.main()
