"""Tests of collecting rollouts and trying routers live, with an untrained pair.

It writes nonsense, in steps of a token or more, which is all that is needed.
"""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import arithmetic_rollouts
from experiments import behave
from experiments import builders
from experiments import live
from routing import costs
from routing.features import batching
from routing.routers import behaviour
from routing.routers import fixed
from routing.shards import reader
from tests import collect_experiment_test


def _make_config(pair, name='redraft', **fields):
  config = arithmetic_rollouts.get_config('smoke')
  config.engine.update(pair=str(pair), max_batch=8, num_slots=8)
  config.problems.update(train=6, validation=3, test=3)
  config.collect.update(
      shard_size=4, max_tokens=60, concurrency=4, temperature=1.0
  )
  config.protocol.name = name
  config.behaviour.update(fields)
  return config


class BehaveTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.pair = pathlib.Path(
        cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    collect_experiment_test._save_pair(cls.pair)

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)

  def test_writes_rollouts_and_goes_on_with_them(self):
    config = _make_config(self.pair, 'switch', kind='uniform')
    directory = behave.collect_split(config, self.workdir, 'train')
    self.assertEqual(directory, self.workdir / 'rollouts' / 'train')
    rollouts = reader.read_rollouts(directory)
    self.assertEqual(
        [x.problem for x in rollouts], builders.problems(config, 'train')
    )
    for x in rollouts:
      self.assertLen(x.trajectories, 2)
      for y in x.trajectories:
        self.assertEqual({d.probability for d in y.decisions}, {0.5})
    kept = (directory / 'rollouts-00000.parquet').read_bytes()
    (directory / 'rollouts-00001.parquet').unlink()
    behave.collect_split(config, self.workdir, 'train')
    self.assertEqual((directory / 'rollouts-00000.parquet').read_bytes(), kept)
    again = reader.read_rollouts(directory)
    for x, y in zip(rollouts, again, strict=True):
      self.assertEqual(x.reference.text, y.reference.text)
      for a, b in zip(x.trajectories, y.trajectories, strict=True):
        self.assertEqual(a.decisions, b.decisions)
        self.assertEqual(a.text, b.text)

  def test_another_behaviour_is_refused(self):
    config = _make_config(self.pair, kind='uniform')
    behave.collect_split(config, self.workdir, 'test')
    config.behaviour.kind = 'rate'
    with self.assertRaisesRegex(ValueError, "behaviour.kind: 'uniform' there"):
      behave.collect_split(config, self.workdir, 'test')
    config = _make_config(self.pair, 'switch', kind='uniform')
    with self.assertRaisesRegex(ValueError, "name: 'redraft' there, 'switch'"):
      behave.collect_split(config, self.workdir, 'test')

  def test_live_figures_are_those_of_the_calls(self):
    config = _make_config(self.pair, trajectories=1)
    directory = behave.collect_split(config, self.workdir, 'test')
    rollouts = reader.read_rollouts(directory)
    accounting = batching.with_reference(builders.accounting(config), rollouts)
    points = live.measure(
        config,
        [fixed.SmallRouter(), fixed.ConfidenceRouter(1.0)],
        rollouts,
        accounting,
    )
    self.assertEqual(points.cost.shape, (2, 3))
    self.assertTrue((points.cost[0] < points.cost[1]).all())
    answers = live.answer_under(
        config, [x.problem for x in rollouts], [fixed.SmallRouter()], accounting
    )
    for n, (answer, x) in enumerate(zip(answers[0], rollouts, strict=True)):
      self.assertEqual({s.route for s in answer.steps}, {0})
      args = accounting.specs, 'price'
      np.testing.assert_allclose(
          points.cost[0, n],
          costs.total_cost(answer.calls, *args)
          / costs.completion_cost(x.reference, *args),
      )

  def test_kinds_of_behaviour(self):
    specs = builders.specs(_make_config(self.pair))
    with self.assertRaisesRegex(ValueError, "'odd'; allowed: uniform, rate"):
      behave.behaviour(_make_config(self.pair, kind='odd'), specs)
    with self.assertRaisesRegex(ValueError, 'of other models or of another'):
      behave.behaviour(_make_config(self.pair, kind='mixture'), specs)

  def test_mixes_the_shipped_router(self):
    config = _make_config('shipped', 'escalate', kind='mixture', epsilon=0.3)
    config.engine.pair = 'shipped'
    policy, accounting, settings = behave.behaviour(
        config, builders.specs(config)
    )
    (problem,) = builders.problems(config, 'test')[:1]
    drawing = policy(problem, 0)
    self.assertIsInstance(drawing.policy, behaviour.Mixture)
    self.assertEqual(settings['epsilon'], 0.3)
    self.assertGreater(accounting.reference, 0)


if __name__ == '__main__':
  absltest.main()
