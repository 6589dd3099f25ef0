"""Tests of ladders as arrays: equal to live traces, nothing from the future."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import observation
from routing.features import standardize
from routing.grading import equivalence
from routing.outcomes import batches
from routing.outcomes import records
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import step_requests
from tests import scripted_pair

_SAMPLING = step_requests.Sampling(max_decisions=6, max_tokens=100)


def _config(groups=observation.GROUPS, **kwargs):
  return observation.FeatureConfig(
      groups=groups,
      **dict(
          num_routes=2,
          max_decisions=6,
          hidden_size=4,
          question_width=8,
          step_width=8,
          max_ngram=2,
      )
      | kwargs,
  )


def _step(body, log_probs=(), *, top=None, hidden=None, written=None, route=0):
  count = len(log_probs) if written is None else written
  return types.Step(
      text=body,
      token_ids=(0,) * count,
      log_probs=np.asarray(log_probs, np.float32),
      top_log_probs=np.zeros((count, 0), np.float32) if top is None else top,
      is_final=False,
      usage=types.Usage(route, 0, 0, count),
      hidden=hidden,
  )


def _collect(problems, num_routes=2):
  ladders = {}
  asyncio.run(
      collect.collect_ladders(
          problems,
          scripted_pair.make_engines(num_routes),
          ladders.__setitem__,
          plan=collect.Plan(sampling=_SAMPLING),
          grade=equivalence.exact,
          concurrency=4,
      )
  )
  return [ladders[i] for i in range(len(problems))]


class _Recorder:
  """A router that hands over at one step and records every trace."""

  def __init__(self, stop):
    self.stop, self.traces = stop, []

  def decide(self, trace):
    self.traces.append(trace)
    return types.Decision(int(len(trace.steps) == self.stop), 0.0)


def _raw_batch(ladders, config, accounting, protocol):
  """Ladders as a batch whose features are not standardised."""
  table = records.ladder_table(ladders, config, accounting, protocol)
  features = table.decisions.features
  statistics = standardize.Statistics(
      np.zeros(features.shape[1]), np.ones(features.shape[1])
  )
  batch = batches.outcome_batch(table, statistics, accounting.metric)
  batch.features[table.problem, table.decisions.depth] = features
  return batch


class LadderBatchTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.problems = scripted_pair.make_problems(12)
    self.ladders = _collect(self.problems)
    self.accounting = batching.with_reference(
        costs.Accounting(scripted_pair.SPECS[:2]), self.ladders
    )

  def _batch(self, ladders=None, view='peek', config=None):
    return _raw_batch(
        self.ladders if ladders is None else ladders,
        config or _config(),
        self.accounting,
        protocols.Protocol(view=view),
    )

  @parameterized.parameters('peek', 'commit')
  def test_live_traces_give_the_same_vectors(self, view):
    batch = self._batch(view=view)
    for n, problem in enumerate(self.problems):
      router = _Recorder(stop=len(self.ladders[n].steps) - 1)
      trajectory = asyncio.run(
          driver.answer(
              problem,
              router,
              scripted_pair.make_engines(),
              protocol=protocols.Protocol(view=view),
              accounting=self.accounting,
              grade=equivalence.exact,
              seed=0,
              sampling=_SAMPLING,
          )
      )
      live = [observation.observe(t, _config()) for t in router.traces]
      self.assertLen(live, len(self.ladders[n].steps))
      np.testing.assert_array_equal(live, batch.features[n][batch.mask[n]])
      # The outcome and cost of the ladder are those of the live driver.
      self.assertEqual(
          trajectory.is_correct, batch.correct[..., 1:][n, len(live) - 1, 0]
      )
      all_large = self.ladders[n].completions[0]
      np.testing.assert_allclose(
          self.accounting.spent(trajectory.calls),
          batch.cost[..., 1:][n, len(live) - 1, 0]
          * self.accounting.spent(
              [types.Usage(1, all_large.read, 0, all_large.written)]
          ),
          rtol=1e-5,
      )

  @parameterized.parameters('peek', 'commit')
  def test_nothing_from_the_future(self, view):
    ladder = next(x for x in self.ladders if len(x.steps) >= 4)
    before = self._batch([ladder], view).features[0]
    for t in range(1, len(ladder.steps)):
      # Steps from t on become something else, the outcomes too.
      other = _step('z 9', [-9.0], hidden=np.full(4, 9.0, np.float32))
      changed = dataclasses.replace(
          ladder,
          steps=(*ladder.steps[:t], *[other] * (len(ladder.steps) - t)),
          is_correct=not ladder.is_correct,
      )
      after = self._batch([changed], view).features[0]
      # peek sees the draft of step t at decision t; commit at decision t + 1.
      seen = t if view == 'peek' else t + 1
      np.testing.assert_array_equal(after[:seen], before[:seen])
      if seen < len(ladder.steps):
        self.assertTrue((after[seen] != before[seen]).any())

  def test_losses_are_paired_by_sample(self):
    # Three samples. The largest alone is right, right, wrong. From step 1 it is
    # right, wrong, right: lost only where it was right alone and is wrong now,
    # sample 1: 1/3. The small model is wrong: lost in samples 0 and 1: 2/3.
    grades = [[True, True, False], [True, False, True]]
    ladder = types.Ladder(
        problem=types.Problem('p', 'q', 'a'),
        steps=tuple(_step('a', [-1.0], hidden=np.ones(4)) for _ in range(2)),
        is_correct=False,
        completions=tuple(
            types.Completion(t, 1, s, '', 3, 5, 0.1, grades[t][s])
            for t in range(2)
            for s in range(3)
        ),
    )
    batch = self._batch([ladder])
    np.testing.assert_allclose(
        batch.correct[..., 1:][0, :2, 0], [2 / 3, 2 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(
        batch.loss[..., 1:][0, :2, 0], [0, 1 / 3], atol=1e-7
    )
    np.testing.assert_allclose(
        batch.loss[..., 0].sum(axis=1), [2 / 3], rtol=1e-6
    )

  def test_padding_is_zero(self):
    batch = self._batch()
    for name in ('features', 'correct', 'cost'):
      np.testing.assert_array_equal(getattr(batch, name)[~batch.mask], 0.0)
    used = max(len(ladder.steps) for ladder in self.ladders)
    self.assertEqual(batch.widths, (1,) * used)
    self.assertEqual(batch.mask.sum(), sum(len(x.steps) for x in self.ladders))

  def test_bad_ladders_raise_an_error_that_names_the_problem(self):
    ladder = self.ladders[3]
    first = dataclasses.replace(
        ladder.steps[0], log_probs=np.array([np.nan], np.float32)
    )
    broken = dataclasses.replace(ladder, steps=(first, *ladder.steps[1:]))
    with self.assertRaisesRegex(ValueError, f'{ladder.problem.id}: step 0'):
      self._batch([broken])
    with self.assertRaisesRegex(ValueError, 'no completion'):
      self._batch(
          [dataclasses.replace(ladder, completions=ladder.completions[:-1])]
      )
    with self.assertRaisesRegex(ValueError, 'has 0 problems'):
      self._batch([])

  def test_an_unset_reference_raises_an_error(self):
    accounting = dataclasses.replace(self.accounting, reference=float('nan'))
    with self.assertRaisesRegex(ValueError, 'cost/spent'):
      _raw_batch(
          self.ladders, _config(('cost',)), accounting, protocols.Protocol()
      )


class MinibatchTest(parameterized.TestCase):

  @parameterized.parameters((10, 5), (10, 4), (7, 3))
  def test_every_problem_occurs_once_per_epoch(self, num_problems, batch_size):
    # After N steps of size S each problem was seen S times.
    rows = np.concatenate(
        [
            batching.minibatch_indices(0, step, num_problems, batch_size)
            for step in range(num_problems)
        ]
    )
    np.testing.assert_array_equal(
        np.bincount(rows, minlength=num_problems), batch_size
    )

  def test_rows_are_a_function_of_seed_and_step(self):
    def draw(seed, step):
      return batching.minibatch_indices(seed, step, 100, 30).tolist()

    self.assertEqual(draw(1, 7), draw(1, 7))
    self.assertNotEqual(draw(1, 7), draw(2, 7))
    self.assertNotEqual(draw(1, 7), draw(1, 8))

  def test_epochs_have_different_orders(self):
    epochs = [batching.minibatch_indices(0, e, 50, 50).tolist() for e in (0, 1)]
    self.assertNotEqual(*epochs)

  def test_batch_larger_than_the_set_is_the_set(self):
    rows = batching.minibatch_indices(0, 3, 6, 100)
    self.assertEqual(sorted(rows.tolist()), list(range(6)))


if __name__ == '__main__':
  absltest.main()
