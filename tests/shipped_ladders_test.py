"""Ladders that come with the package: a run needs no model and no problems."""

import contextlib
import dataclasses
import io
import json
import pathlib
from unittest import mock

from absl.testing import absltest
import pytest

from configs import compare_arithmetic
from experiments import builders
from experiments import collect
from experiments import compare
from experiments import compared_problems
from experiments import compared_runs
from experiments import pipeline
from experiments import train
import routing
from routing.routers import learned
from routing.routers import registry
from routing.shards import reader
from tests import flow_test


@pytest.mark.usefixtures('lightly_optimized')
class ShippedTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(mock.patch.object(reader, 'SHIPPED', self.folder))
    self.config = flow_test.small('escalate')
    self.config.objective.levels = ()
    self.config.evaluation.update(
        learners=(), num_live=0, num_coverage_samples=0
    )

  def _away(self):
    """Returns the configuration on a machine without models and problems."""
    config = self.config.copy_and_resolve_references()
    config.data.directory = 'shipped/pair'
    for route in config.routes:
      route['model'] = '/nowhere'
    return config

  @pytest.mark.slow
  def test_a_router_is_trained_and_evaluated(self):
    for split in builders.SPLITS:
      collect.collect_split(self.config, self.folder / 'pair', split)
    files = sorted((self.folder / 'pair').rglob('*'))
    workdir = self.folder / 'run'
    with mock.patch.object(builders, 'problems', side_effect=AssertionError):
      pipeline.run(self._away(), workdir, lambda _: None)
    results = json.loads((workdir / 'results.json').read_text())
    levels = routing.load(workdir / 'runs' / 'seed0').card.levels
    self.assertLen(levels, 4)
    self.assertSequenceEqual(levels, sorted(levels))
    self.assertIn('policy', results['cost_metrics']['price']['methods'])
    self.assertLen(
        routing.load_ladders('pair', 'test'), self.config.problems.test
    )
    # Nothing is written beside the ladders.
    self.assertEqual(sorted((self.folder / 'pair').rglob('*')), files)
    self._check_comparison(workdir)
    self._check_refusals()

  def _check_comparison(self, workdir):
    """Routers are compared; a further one costs its own run only."""
    routers = ('policy', 'best constant', 'nearest questions', 'FrugalGPT')
    config = self._away()
    config.compare = compare_arithmetic.get_config('smoke').compare
    config.compare.routers = routers
    config.compare.num_live.update(select=0, test=0)
    with mock.patch.object(builders, 'problems', side_effect=AssertionError):
      files = compare.compare(config, workdir)
    content = json.loads(files[0].read_text())
    self.assertEqual([x.exists() for x in files], [True] * 3)
    self.assertCountEqual(content['routers'], routers)
    self.assertEqual(content['num_problems'], config.problems.test)
    for facts in content['routers'].values():
      self.assertEqual(facts['num_select'], config.problems.select)
    for metric, found in content['cost_metrics'].items():
      self.assertCountEqual(found['methods'], [*routers, 'oracle'], metric)
      self.assertCountEqual(found['differences'], routers[1:], metric)
    self.assertIn('| FrugalGPT |', files[1].read_text())
    config.compare.routers = (*routers, 'RouteLLM, classifier')
    with mock.patch.object(
        compare, 'evaluate_seeds', wraps=compare.evaluate_seeds
    ) as entered:
      compare.compare(config, workdir)
    (call,) = entered.call_args_list
    self.assertEqual(call.args[0], 'RouteLLM, classifier')
    self._check_keys(config, workdir)
    self._check_trained(config, workdir)
    again = json.loads(files[0].read_text())
    for name in routers:  # What was there is as it was.
      self.assertEqual(
          again['cost_metrics']['price']['methods'][name],
          content['cost_metrics']['price']['methods'][name],
      )

  def _check_trained(self, config, workdir):
    """The policy of a run is a row: here that of the same run, again."""
    config = config.copy_and_resolve_references()
    config.compare.trained = (str(workdir),)
    name = 'learned policy, escalate, peek'
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      compare.show_plan(config, workdir)
    self.assertIn(name, said.getvalue())
    config.compare.reference = name
    files = compare.compare(config, workdir)
    content = json.loads(files[0].read_text())
    found = content['cost_metrics']['price']
    methods = found['methods']
    self.assertEqual(methods[name]['area'], methods['policy']['area'])
    self.assertIn('policy', found['differences'])
    self.assertIn(f'{name} minus router', files[1].read_text())
    config.compare.reference = 'policy'
    router = learned.load(train.run_directory(workdir, 0))
    # As if it had learned from the problems of `select`.
    router.seen = dataclasses.replace(
        router.seen, train=router.seen.select, select=frozenset()
    )
    with (
        mock.patch.object(compared_runs, '_routers', lambda *_: {0: router}),
        self.assertRaisesRegex(ValueError, f"{name}, seed 0: .*'train'"),
    ):
      compare.compare(config, workdir)
    config.compare.trained = (str(workdir / 'nothing'),)
    with self.assertRaisesRegex(ValueError, 'which has no seed'):
      compare.compare(config, workdir / 'new')
    self.assertFalse((workdir / 'new').exists())

  def _check_keys(self, config, workdir):
    """What no other router reads changes no other router's key."""
    changed = config.copy_and_resolve_references()
    changed.compare.scorer.model = 'shipped/small'
    changed.network.hidden = (9,)
    found = [compared_problems.Problems(x, workdir) for x in (config, changed)]
    for name, is_same in (
        *(('best constant', True), ('nearest questions', True)),
        *(('RSD', False), ('policy', False)),
    ):
      a, b = (x.key(registry.load(name)) for x in found)
      self.assertEqual(a == b, is_same, name)

  def _check_refusals(self):
    other = self._away()
    other.collect.max_tokens = 99
    with self.assertRaisesRegex(ValueError, r'other settings \(plan differ'):
      collect.collect_split(other, self.folder, 'test')
    priced = self._away()
    small, large = priced.routes
    priced.routes = (small, dict(large, spec=dict(price_output=7.0)))
    with self.assertRaisesRegex(ValueError, 'was collected with the models'):
      collect.collect_split(priced, self.folder, 'test')
    more = self._away()
    more.problems.test += 1
    with self.assertRaisesRegex(ValueError, 'but this configuration needs'):
      collect.collect_split(more, self.folder, 'test')

  def test_unknown_names_are_refused(self):
    (self.folder / 'pair').mkdir()
    with self.assertRaisesRegex(ValueError, "'other' .* allowed: pair"):
      routing.load_ladders('other')
    with self.assertRaisesRegex(ValueError, "'dev'; allowed: train, select"):
      routing.load_ladders('pair', 'dev')


if __name__ == '__main__':
  absltest.main()
