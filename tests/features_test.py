"""Tests of the observation: every entry by hand, groups, hashing, scaling."""

import dataclasses
import subprocess
import sys
import tracemalloc

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.features import confidence
from routing.features import observation
from routing.features import standardize
from routing.features import text


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


def _observed(trace, config):
  vector = observation.observe(trace, config)
  return dict(zip(observation.names(config), vector.tolist(), strict=True))


class ConfidenceTest(parameterized.TestCase):

  def test_only_the_columns_of_the_question_are_constant(self):
    config = _config(observation.GROUPS, hidden_size=1)
    columns = observation.constant(config)
    self.assertEqual(
        observation.names(config)[columns],
        tuple(f'text/question_{i}' for i in range(8)),
    )
    steps = tuple(_step(f'{x} + 1\n\n', [-1.0]) for x in (7, 8))
    now, later = (
        observation.observe(types.Trace(question='what is 7?', steps=x), config)
        for x in (steps[:1], steps)
    )
    self.assertTrue(now[columns].any())
    np.testing.assert_array_equal(now[columns], later[columns])

  @parameterized.parameters(
      dict(groups=('confidence',)), dict(groups=('text',), question_width=0)
  )
  def test_without_the_question_nothing_is_constant(self, **given):
    self.assertEqual(observation.constant(_config(**given)), slice(0, 0))

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

  def test_no_log_probs_give_zeros_and_a_mask_entry(self):
    trace = types.Trace('q', (), _step('b\n\n', written=7))
    got = _observed(trace, _config(('confidence',)))
    self.assertEqual(got.pop('confidence/num_tokens'), 7)
    self.assertEqual(set(got.values()), {0.0})

  def test_a_single_top_log_prob_gives_no_margin(self):
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

  def test_certain_tokens_are_finite_and_nan_raises_an_error(self):
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
    # Sixteen times the same word: one bucket has +-16, all others 0.
    counts = text.hash_ngrams('yes ' * 16, 32, 1)
    self.assertEqual(np.abs(counts).sum(), 16)
    self.assertEqual(np.count_nonzero(counts), 1)

  def test_without_buckets_nothing_is_counted(self):
    self.assertEqual(text.hash_ngrams('yes 7', 0, 1).shape, (0,))

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

  def test_hashes_are_equal_in_another_process(self):
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

  def test_long_texts_are_not_kept(self):
    # As a client may send them: 25 MB of long words, each text another.
    texts = (f'{i} {"x" * 50_000}' for i in range(500))
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    for each in texts:
      text.hash_ngrams(each, 8, 2)
    kept, _ = tracemalloc.get_traced_memory()
    self.assertLess(kept, 5e6)
    # The latest are, since an answer asks for its question at each decision.
    found = text.hash_ngrams(each, 8, 2)
    self.assertIs(text.hash_ngrams(each, 8, 2), found)
    np.testing.assert_array_equal(text.hash_all([each], 8, 2)[0], found)

  def test_cached_vectors_cannot_be_written_to(self):
    with self.assertRaisesRegex(ValueError, 'read-only'):
      text.hash_ngrams('a', 4, 1)[0] = 1.0


class ObservationTest(parameterized.TestCase):

  def test_progress_by_hand(self):
    # Two accepted steps of 3 and 2 tokens; the draft is not counted.
    trace = types.Trace(
        'q',
        (_step('a', [-1.0] * 3), _step('b', [-1.0] * 2)),
        _step('c', [-1.0] * 9),
    )
    got = _observed(trace, _config(('progress',), max_decisions=4))
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

  def test_a_missing_hidden_state_gives_zeros_and_a_mask_entry(self):
    config = _config(('hidden',))
    given = types.Trace('q', (), _step('a', hidden=np.ones(4, np.float32)))
    absent = types.Trace('q', (), _step('a'))
    np.testing.assert_array_equal(observation.observe(given, config), 1.0)
    np.testing.assert_array_equal(observation.observe(absent, config), 0.0)

  @parameterized.parameters(
      (dict(groups=('confidence', 'colour')), 'colour.; allowed: confidence'),
      (dict(groups=()), 'allowed: one or more of'),
      (dict(groups=('text', 'text')), 'only once'),
      (dict(hidden_size=0), 'hidden states'),
      (dict(num_routes=1), 'num_routes is 1'),
  )
  def test_a_bad_config_raises_an_error(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      _config(**changes)

  def test_a_trace_that_is_too_long_raises_an_error(self):
    trace = types.Trace('q', (_step('a', [-1.0]),) * 6)
    with self.assertRaisesRegex(ValueError, '6 steps'):
      observation.observe(trace, _config(('progress',)))

  def test_another_hidden_size_raises_an_error(self):
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

  def test_no_decision_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, 'no decision'):
      standardize.measure(np.zeros((1, 1, 1)), np.zeros((1, 1), bool))


if __name__ == '__main__':
  absltest.main()
