"""Tests of the observation: groups, nothing from the future, live = ladder."""

import asyncio
import dataclasses
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import confidence
from routing.features import observation
from routing.features import standardize
from routing.features import text
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import driver
from tests import scripted_pair

_SAMPLING = driver.Sampling(max_steps=6, max_tokens=100)


def _config(groups=observation.GROUPS, **kwargs):
  return observation.FeatureConfig(
      groups=groups,
      **dict(
          num_routes=2,
          max_steps=6,
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


def _observed(trace, config):
  vector = observation.observe(trace, config)
  return dict(zip(observation.names(config), vector.tolist(), strict=True))


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


class ConfidenceTest(parameterized.TestCase):

  def test_by_hand(self):
    # Two tokens at -0.5 and -1.5 in the draft, one at -2 in the step before.
    # mean -1, minimum -1.5, last -1.5, sum -2; running minimum -2, and the
    # mean of the steps' means (-2 - 1) / 2 = -1.5.
    # Top two of the first token: 1/2 and 1/4, so 1/4 is left over and the
    # entropy is 1/2 ln 2 + 2 * 1/4 ln 4 = 1.5 ln 2; margin ln 2. The second
    # token is certain (1 and about 0): entropy 0, margin 20.
    top = np.array([[np.log(0.5), np.log(0.25)], [0.0, -20.0]], np.float32)
    trace = types.Trace(
        question='q',
        steps=(_step('a\n\n', [-2.0]),),
        draft=_step('b\n\n', [-0.5, -1.5], top=top),
    )
    got = _observed(trace, _config(('confidence',)))
    expected = dict(
        has_log_probs=1,
        mean=-1,
        minimum=-1.5,
        last=-1.5,
        sum=-2,
        log_neg_mean=np.log(1.0001),
        log_neg_minimum=np.log(1.5001),
        log_neg_last=np.log(1.5001),
        has_top_log_probs=1,
        entropy_mean=0.75 * np.log(2),
        entropy_max=1.5 * np.log(2),
        margin_mean=(np.log(2) + 20) / 2,
        margin_min=np.log(2),
        num_tokens=2,
        running_minimum=-2,
        running_mean=-1.5,
        log_neg_running_minimum=np.log(2.0001),
    )
    self.assertCountEqual(expected, confidence.NAMES)
    for name, value in expected.items():
      np.testing.assert_allclose(
          got[f'confidence/{name}'], value, rtol=1e-5, atol=1e-6, err_msg=name
      )

  def test_engine_without_log_probs_gives_zeros_and_a_mask_bit(self):
    trace = types.Trace('q', (), _step('b\n\n', written=7))
    got = _observed(trace, _config(('confidence',)))
    self.assertEqual(got.pop('confidence/num_tokens'), 7)
    self.assertEqual(set(got.values()), {0.0})

  def test_top_one_only_claims_no_margin(self):
    top = np.full((2, 1), np.log(0.5), np.float32)
    trace = types.Trace('q', (), _step('b\n\n', [-0.7, -0.7], top=top))
    got = _observed(trace, _config(('confidence',)))
    self.assertEqual(got['confidence/margin_mean'], 0.0)
    # Half known, half left over: ln 2.
    np.testing.assert_allclose(
        got['confidence/entropy_mean'], np.log(2), rtol=1e-6
    )

  def test_without_a_draft_the_last_step_is_under_view(self):
    steps = _step('a\n\n', [-2.0]), _step('b\n\n', [-0.5])
    drafted = types.Trace('q', steps[:1], steps[1])
    committed = types.Trace('q', steps)
    config = _config(('confidence', 'text'))
    np.testing.assert_array_equal(
        observation.observe(drafted, config),
        observation.observe(committed, config),
    )

  def test_certain_tokens_are_finite_and_nan_is_refused(self):
    top = np.array([[0.0, np.nan]], np.float32)
    with self.assertRaisesRegex(ValueError, 'confidence/entropy'):
      observation.observe(
          types.Trace('q', (), _step('a', [0.0], top=top)),
          _config(('confidence',)),
      )
    got = _observed(
        types.Trace('q', (), _step('a', [0.0])), _config(('confidence',))
    )
    np.testing.assert_allclose(
        got['confidence/log_neg_minimum'], np.log(1e-4), rtol=1e-6
    )


class TextTest(parameterized.TestCase):

  def test_words_are_digits_and_runs_of_the_rest(self):
    self.assertEqual(
        text.words('a) P gets 27: x=9.\n\n'),
        ['a)', 'P', 'gets', '2', '7', ':', 'x=', '9', '.'],
    )

  def test_ngrams(self):
    self.assertEqual(
        text.ngrams(['a', 'b', 'c'], 2), ['a', 'b', 'c', 'a b', 'b c']
    )

  def test_counts_add_up(self):
    # Sixteen of the same word: one bucket holds +-16, all others nothing.
    counts = text.hash_ngrams('yes ' * 16, 32, 1)
    self.assertEqual(np.abs(counts).sum(), 16)
    self.assertEqual(np.count_nonzero(counts), 1)

  def test_inner_products_are_unbiased(self):
    # Two sets of 40 words that share 20: inner product 20 in expectation. Over
    # 200 draws at width 64 its standard error is about 0.5.
    products = []
    for draw in range(200):
      word = [
          f'{chr(97 + draw % 26)}{chr(97 + draw // 26)}w{"x" * i}'
          for i in range(60)
      ]
      left = text.hash_ngrams(' '.join(word[:40]), 64, 1)
      right = text.hash_ngrams(' '.join(word[20:]), 64, 1)
      products.append(float(left @ right))
    self.assertAlmostEqual(np.mean(products), 20.0, delta=2.0)

  def test_another_process_hashes_alike(self):
    code = (
        'from routing.features import text;'
        'print(text.hash_ngrams("a b 7", 5, 3).tolist())'
    )
    here = str(text.hash_ngrams('a b 7', 5, 3).tolist())
    there = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env={'PYTHONHASHSEED': '1', 'PYTHONPATH': '.'},
    )
    self.assertEqual(there.stdout.strip(), here)

  def test_cached_vectors_cannot_be_written_to(self):
    with self.assertRaisesRegex(ValueError, 'read-only'):
      text.hash_ngrams('a', 4, 1)[0] = 1.0


class ObservationTest(parameterized.TestCase):

  def test_progress_by_hand(self):
    # Two steps of 3 and 2 tokens in the trace; the draft counts for nothing.
    trace = types.Trace(
        'q',
        (_step('a', [-1.0] * 3), _step('b', [-1.0] * 2)),
        _step('c', [-1.0] * 9),
    )
    got = _observed(trace, _config(('progress',), max_steps=4))
    self.assertEqual(list(got.values()), [0.5, 0, 0, 1, 0, 5, 1, 0], list(got))

  def test_groups_are_switchable_and_keep_their_values(self):
    trace = types.Trace(
        'one 2',
        (_step('a', [-1.0]),),
        _step('b c', [-2.0], hidden=np.arange(4, dtype=np.float32)),
        spent=0.3,
    )
    whole = _observed(trace, _config())
    for group in observation.GROUPS:
      alone = _observed(trace, _config((group,)))
      self.assertEqual(
          alone, {k: v for k, v in whole.items() if k.startswith(group + '/')}
      )
      self.assertTrue(any(alone.values()), group)
    self.assertEqual(_config().size, len(whole))

  def test_missing_hidden_state_is_zeros_and_a_mask_bit(self):
    config = _config(('hidden',))
    given = types.Trace('q', (), _step('a', hidden=np.ones(4, np.float32)))
    absent = types.Trace('q', (), _step('a'))
    np.testing.assert_array_equal(observation.observe(given, config), 1.0)
    np.testing.assert_array_equal(observation.observe(absent, config), 0.0)

  @parameterized.parameters(
      (dict(groups=('confidence', 'colour')), 'allowed: one or more of'),
      (dict(groups=()), 'allowed: one or more of'),
      (dict(groups=('text', 'text')), 'twice'),
      (dict(hidden_size=0), 'hidden states'),
      (dict(num_routes=1), 'num_routes is 1'),
  )
  def test_bad_config_is_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      _config(**changes)

  def test_trace_too_long_is_refused(self):
    trace = types.Trace('q', (_step('a', [-1.0]),) * 6)
    with self.assertRaisesRegex(ValueError, '6 steps'):
      observation.observe(trace, _config(('progress',)))

  def test_other_hidden_width_is_refused(self):
    trace = types.Trace('q', (), _step('a', hidden=np.ones(3, np.float32)))
    with self.assertRaisesRegex(ValueError, 'hidden state'):
      observation.observe(trace, _config(('hidden',)))

  def test_config_survives_json(self):
    config = _config()
    copied = observation.FeatureConfig(
        **dataclasses.asdict(config) | {'groups': list(config.groups)}
    )
    self.assertEqual(copied, config)


class StandardizeTest(parameterized.TestCase):

  def test_ignores_padding_and_clips(self):
    # Valid values 1 and 3: mean 2, std 1. The constant column stays constant.
    features = np.array([[[1.0, 7.0], [3.0, 7.0], [99.0, 0.0]]])
    mask = np.array([[True, True, False]])
    statistics = standardize.measure(features, mask)
    np.testing.assert_array_equal(statistics.mean, [2.0, 7.0])
    got = standardize.apply(features, statistics)
    np.testing.assert_allclose(got, [[[-1, 0], [1, 0], [5, -5]]])

  def test_nothing_to_measure_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'no decision'):
      standardize.measure(np.zeros((1, 1, 1)), np.zeros((1, 1), bool))


class _Recorder:
  """Hands over at one step, and keeps every trace that it was shown."""

  def __init__(self, stop):
    self.stop, self.traces = stop, []

  def decide(self, trace):
    self.traces.append(trace)
    return types.Decision(int(len(trace.steps) == self.stop), 0.0)


class LadderBatchTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.problems = scripted_pair.make_problems(12)
    self.ladders = _collect(self.problems)
    self.accounting = batching.with_reference(
        costs.Accounting(scripted_pair.SPECS[:2]), self.ladders
    )

  def _batch(self, ladders=None, view='peek', config=None):
    return batching.ladder_batch(
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
      # And what the ladder promises is what the driver got and paid.
      self.assertEqual(
          trajectory.is_correct, batch.handover_correct[n, len(live) - 1, 0]
      )
      all_large = self.ladders[n].completions[0]
      np.testing.assert_allclose(
          self.accounting.spent(trajectory.calls),
          batch.handover_cost[n, len(live) - 1, 0]
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
        batch.handover_correct[0, :2, 0], [2 / 3, 2 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(
        batch.handover_loss[0, :2, 0], [0, 1 / 3], atol=1e-7
    )
    np.testing.assert_allclose(batch.stay_loss, [2 / 3], rtol=1e-6)

  def test_padding_is_empty(self):
    batch = self._batch()
    for name in ('features', 'handover_correct', 'handover_cost'):
      np.testing.assert_array_equal(getattr(batch, name)[~batch.mask], 0.0)
    trimmed = batching.trimmed(batch)
    used = max(len(ladder.steps) for ladder in self.ladders)
    self.assertEqual(trimmed.features.shape[1], used)
    self.assertEqual(trimmed.mask.sum(), batch.mask.sum())

  def test_bad_ladders_are_refused_by_name(self):
    ladder = self.ladders[3]
    first = dataclasses.replace(
        ladder.steps[0], log_probs=np.array([np.nan], np.float32)
    )
    broken = dataclasses.replace(ladder, steps=(first, *ladder.steps[1:]))
    with self.assertRaisesRegex(ValueError, f'{ladder.problem.id}, step 0'):
      self._batch([broken])
    with self.assertRaisesRegex(ValueError, 'no completion'):
      self._batch(
          [dataclasses.replace(ladder, completions=ladder.completions[:-1])]
      )
    with self.assertRaisesRegex(ValueError, 'at most 2'):
      self._batch([ladder], config=_config(max_steps=2))
    with self.assertRaisesRegex(ValueError, 'no ladders'):
      self._batch([])

  def test_unset_reference_is_refused(self):
    accounting = dataclasses.replace(self.accounting, reference=float('nan'))
    with self.assertRaisesRegex(ValueError, 'cost/spent'):
      batching.ladder_batch(
          self.ladders, _config(('cost',)), accounting, protocols.Protocol()
      )


class MinibatchTest(parameterized.TestCase):

  @parameterized.parameters((10, 5), (10, 4), (7, 3))
  def test_every_problem_once_an_epoch(self, num_problems, batch_size):
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

  def test_pure_in_seed_and_step(self):
    def draw(seed, step):
      return batching.minibatch_indices(seed, step, 100, 30).tolist()

    self.assertEqual(draw(1, 7), draw(1, 7))
    self.assertNotEqual(draw(1, 7), draw(2, 7))
    self.assertNotEqual(draw(1, 7), draw(1, 8))
    following = batching.minibatches(1, 7, 100, 30)
    self.assertEqual(next(following).tolist(), draw(1, 7))
    self.assertEqual(next(following).tolist(), draw(1, 8))

  def test_batch_larger_than_the_set_is_the_set(self):
    rows = batching.minibatch_indices(0, 3, 6, 100)
    self.assertEqual(sorted(rows.tolist()), list(range(6)))


if __name__ == '__main__':
  absltest.main()
