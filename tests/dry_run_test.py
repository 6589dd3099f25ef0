"""Tests of the plan of a collection against what the collection then does."""

import collections
import contextlib
import dataclasses
import io
import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import arithmetic_paid
from configs import arithmetic_rollouts
from configs import arithmetic_switch
from configs import gsm8k_qwen25_coder
from configs import gsm8k_redraft
from configs import paper
from experiments import collect
from experiments import dry_run
from experiments import plan_table
from experiments import stage_plans
from routing.engines import back_ends
from routing.engines import resilience
from routing.rollout import forecast
from routing.rollout import steps as steps_lib

_LOW, _EXPECTED, _HIGH = range(3)


def _config(module=arithmetic, **collected):
  config = module.get_config('smoke')
  config.problems.update(train=3, select=2, prove=2, test=2)
  config.collect.update(shard_size=2, **collected)
  config.protocol.max_decisions = 3
  return config


@contextlib.contextmanager
def _counted():
  """Yields {route: demand}, which counts what is really requested meanwhile."""
  real = collections.defaultdict(lambda: forecast.NOTHING)
  reply = resilience.ResilientEngine.reply

  async def counting(self, session, request):
    steps = await reply(self, session, request)
    usage = steps_lib.call_usage(steps)
    real[self.route] += forecast.Demand(
        1, usage.read, usage.cached, usage.written
    )
    return steps

  with mock.patch.object(resilience.ResilientEngine, 'reply', counting):
    yield real


class PlanTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'

  def _plan(self, config, split='train'):
    """Returns the plan; building an engine would raise."""
    with mock.patch.object(back_ends, 'make', side_effect=AssertionError):
      return dry_run.plan(config, self.workdir, split)

  @parameterized.named_parameters(
      ('ladders', arithmetic),
      ('replies', arithmetic_switch),
      ('rollouts', arithmetic_rollouts),
  )
  def test_holds_for_what_is_then_collected(self, module):
    config = _config(module)
    kind = config.data.kind
    before = self._plan(config)
    self.assertFalse(self.workdir.exists())
    with _counted() as real:
      collect.collect_split(config, self.workdir, 'train', kind)
    for route, line in enumerate(x for x in before.lines if kind in x.name):
      self.assertEqual(line.num_problems, 3)
      low, expected, high = line.demands
      self.assertEqual(expected, forecast.Demand())  # Nothing to go by.
      for name in forecast.QUANTITIES:
        got = getattr(real[route], name)
        self.assertBetween(got, getattr(low, name), getattr(high, name), name)
      total = real[route].read + real[route].cached + real[route].written
      self.assertLessEqual(total, line.tokens(_HIGH))

    # Two more problems: what was collected is not counted again, and the mean
    # is that of the three.
    config.problems.train = 5
    for route, line in enumerate(
        x for x in self._plan(config).lines if kind in x.name
    ):
      self.assertEqual(line.num_problems, 2)
      got, want = line.demands[_EXPECTED], real[route].times(2 / 3)
      if kind == 'replies':
        continue  # A reply that was known already is not recorded again.
      self.assertAlmostEqual(got.requests, want.requests)
      self.assertAlmostEqual(got.written, want.written)
      self.assertAlmostEqual(got.read + got.cached, want.read + want.cached)
      self.assertGreater(line.hours[_EXPECTED], 0)
      if not route:
        self.assertAlmostEqual(got.read, want.read)

  def test_one_decision_makes_the_requests_exact(self):
    config = _config(max_tokens=30)
    config.protocol.max_decisions = 1
    small, large = self._plan(config).lines
    self.assertEqual(
        [x.requests for x in large.demands], [3, None, 3], 'one a problem'
    )
    self.assertEqual([x.requests for x in small.demands], [3, None, 6])
    with _counted() as real:
      collect.collect_split(config, self.workdir, 'train')
    self.assertEqual(real[1].requests, 3)

  def test_a_finished_split_needs_nothing(self):
    config = _config(max_tokens=20)
    collect.collect_split(config, self.workdir, 'train')
    for line in self._plan(config).lines:
      self.assertEqual(line.demands, (forecast.NOTHING,) * 3)

  def test_all_splits_by_the_pipeline(self):
    shown = io.StringIO()
    with (
        contextlib.redirect_stdout(shown),
        mock.patch.object(back_ends, 'make', side_effect=AssertionError),
    ):
      stage_plans.show_pipeline(_config(), str(self.workdir))
    for split in ('train', 'select', 'prove', 'test'):
      self.assertIn(f'ladders {split}', shown.getvalue())
    self.assertFalse(self.workdir.exists())

  @parameterized.parameters(
      (1, 'exceeds it (low, high)'),
      (5_000, 'exceeds it (high)'),
      (10**9, 'the plan stays below'),
  )
  def test_a_ceiling_in_tokens(self, tokens, words):
    config = _config()
    config.collect.limits.tokens = tokens
    self.assertIn(words, ' '.join(self._plan(config).notes))

  def test_dollars_are_those_of_routes_with_prices(self):
    config = _config()
    config.routes[1]['spec'] = dict(
        price_input=1.0, price_cached=0.1, price_output=4.0
    )
    config.collect.limits.dollars = 1e-9
    plan = self._plan(config)
    small, large = plan.lines
    self.assertEqual(small.dollars, ())
    low, high = large.demands[_LOW], large.demands[_HIGH]
    self.assertAlmostEqual(
        large.dollars[_LOW], (low.read + 4 * low.written) / 1e6
    )
    # Nothing of a high plan is cached, so each prompt token costs 1 once.
    self.assertAlmostEqual(
        large.dollars[_HIGH], (high.read + 4 * high.written) / 1e6
    )
    self.assertIsNone(large.dollars[_EXPECTED])
    self.assertIn('limits.dollars is 1e-09; the plan', ' '.join(plan.notes))


class UnknownTest(parameterized.TestCase):

  def _plan(self, config):
    workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    with (
        mock.patch.dict(os.environ, {'HF_HUB_OFFLINE': '1'}),
        mock.patch.object(back_ends, 'make', side_effect=AssertionError),
        mock.patch.object(
            dry_run.collection_facts.builders,
            'problems',
            side_effect=ValueError('No such file.'),
        ),
    ):
      return dry_run.plan(config, workdir)

  @parameterized.parameters(
      (paper.get_config('gsm8k'), None),
      (paper.get_config('gpt41_mini'), 1_000),
      (gsm8k_qwen25_coder.get_config(), 600),
      (gsm8k_redraft.get_config(), 400),
  )
  def test_without_problems_and_tokenizers(self, config, num_problems):
    for route in config.routes:
      route['model'] = f'nobody/{route["name"]}'
      if route.get('weights'):
        route['weights'] = route['model']
    plan = self._plan(config)
    notes = ' '.join(plan.notes)
    self.assertIn('cannot be read (No such file.)', notes)
    self.assertIn('small: its tokenizer is not on this machine', notes)
    self.assertEqual(plan.lines[0].num_problems, num_problems)
    for line in plan.lines:
      self.assertIsNone(line.demands[_HIGH].read)
      if num_problems is None:
        self.assertEqual(line.demands, (forecast.Demand(),) * 3)
    console = io.StringIO()
    from rich import console as console_lib

    console_lib.Console(file=console, width=140).print(dry_run.table(plan))
    self.assertIn(plan_table.UNKNOWN, console.getvalue())

  def test_prompts_of_mode_instruct_are_of_unknown_length(self):
    config = arithmetic_paid.get_config('smoke')
    plan = self._plan(config)
    self.assertIn('large: prompts of mode instruct', ' '.join(plan.notes))
    self.assertEqual(plan.lines[1].dollars, (None, None, None))
    self.assertEqual(plan.lines[1].hours, ())  # It runs elsewhere.
    self.assertIn('stays below is unknown', ' '.join(plan.notes))


class DemandTest(absltest.TestCase):

  def test_the_unknown_stays_unknown(self):
    known = forecast.Demand(1, 2, 3, 4)
    part = dataclasses.replace(known, read=None)
    self.assertEqual(known + part, forecast.Demand(2, None, 6, 8))
    self.assertEqual(part.times(2), forecast.Demand(2, None, 6, 8))

  def test_a_small_number_is_not_shown_as_zero(self):
    self.assertEqual(dry_run._number(0.00012, 2), '0.0001')
    self.assertEqual(dry_run._number(0.0, 2), '0.00')
    self.assertEqual(dry_run._number(None), plan_table.UNKNOWN)


if __name__ == '__main__':
  absltest.main()
