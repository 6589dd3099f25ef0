"""Tests of the learned router: decisions, files, points, errors."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from safetensors import numpy as safetensors

import routing
from routing import costs
from routing import protocols
from routing import types
from routing.features import observation
from routing.features import standardize
from routing.policy import networks
from routing.routers import card as card_lib
from routing.routers import learned
from routing.routers import saved
from routing.shards import manifest as manifest_lib
from routing.tasks import seen as seen_lib
from tests import scripted_pair

_NETWORK = dict(kind='mlp', hidden=(5,), dropout=0.1)


def _card(num_routes=3, **changes):
  fields = dict(
      specs=scripted_pair.SPECS[:num_routes],
      metric='price',
      reference=2e-4,
      protocol=protocols.Protocol(),
      features=observation.FeatureConfig(
          groups=('confidence', 'progress', 'text'),
          num_routes=num_routes,
          max_decisions=4,
          question_width=6,
          step_width=6,
      ),
      network=_NETWORK,
      form='budget',
      levels=(0.3, 0.6),
  )
  return card_lib.Card(**fields | changes)


def _router(points=(), seed=0, seen=seen_lib.UNKNOWN, **changes):
  card = _card(**changes)
  network = networks.make_network(_NETWORK, len(card.specs))
  size = card.features.size
  params = jax.vmap(
      lambda key: network.init(key, np.zeros((1, size)))['params']
  )(jax.random.split(jax.random.key(seed), len(card.levels)))
  # Spread out, so that traces get different scores.
  params = jax.tree.map(np.array, params)
  params['Dense_1']['kernel'] *= 8
  statistics = standardize.Statistics(
      np.full(size, 0.1, np.float32), np.full(size, 2.0, np.float32)
  )
  return learned.LearnedRouter(card, params, statistics, points, seen)


def _point(router, **changes):
  fields = dict(
      name='cost<=0.4',
      policy_index=1,
      threshold=0.37,
      promise={'what': 'cost', 'level': 0.4},
      checkpoint_hash=router.checkpoint_hash,
  )
  return card_lib.OperatingPoint(**fields | changes)


def _trace(value=-1.0, question='one 2'):
  step = types.Step(
      text='three 4\n\n',
      token_ids=(1, 2),
      log_probs=np.array([value, -0.5], np.float32),
      top_log_probs=np.zeros((2, 0), np.float32),
      is_final=False,
      usage=types.Usage(0, 0, 0, 2),
  )
  return types.Trace(question=question, steps=(step,), draft=step)


class DecideTest(parameterized.TestCase):

  def test_equals_the_network_by_hand(self):
    router = _router().with_threshold(policy_index=1, threshold=0.5)
    trace = _trace()
    x = observation.observe(trace, router.card.features)
    x = np.clip((x - 0.1) / 2.0, -5, 5)
    weights = router._arrays()
    hidden = np.tanh(
        x @ weights['params/Dense_0/kernel'][1]
        + weights['params/Dense_0/bias'][1]
    )
    logits = (
        hidden @ weights['params/Dense_1/kernel'][1]
        + weights['params/Dense_1/bias'][1]
    )
    probabilities = np.exp(logits) / np.exp(logits).sum()
    decision = router.decide(trace)
    np.testing.assert_allclose(
        decision.score, probabilities[1:].sum(), rtol=1e-5
    )
    larger = 1 + int(np.argmax(probabilities[1:]))
    self.assertEqual(decision.route, larger if probabilities[0] <= 0.5 else 0)

  def test_hands_over_where_the_score_reaches_the_threshold(self):
    router = _router()
    score = router.decide(_trace()).score
    at = router.with_threshold(0, score).decide(_trace())
    above = router.with_threshold(0, np.nextafter(score, 2)).decide(_trace())
    never = router.with_threshold(0, float('inf')).decide(_trace())
    self.assertGreater(at.route, 0)
    self.assertEqual([above.route, never.route], [0, 0])

  def test_batched_scores_equal_those_of_single_rows(self):
    router = _router()
    traces = [_trace(-value, f'q {value}') for value in range(1, 7)]
    rows = np.stack(
        [observation.observe(t, router.card.features) for t in traces]
    )
    for policy_index in (0, 1):
      got = router.score(rows.reshape(2, 3, -1), policy_index)
      self.assertEqual(got.shape, (2, 3))
      one_by_one = [
          router.with_threshold(policy_index, 0.5).decide(t).score
          for t in traces
      ]
      np.testing.assert_allclose(got.ravel(), one_by_one, rtol=1e-5)
      self.assertGreater(np.ptp(got), 1e-3)
    self.assertFalse(np.allclose(router.score(rows, 0), router.score(rows, 1)))

  def test_bad_arguments_raise(self):
    router = _router()
    with self.assertRaisesRegex(
        ValueError, 'policy_index is 2; allowed: 0 to 1'
    ):
      router.with_threshold(2, 0.5)
    with self.assertRaisesRegex(ValueError, 'Got 3 features'):
      router.score(np.zeros((2, 3), np.float32), 0)


class FilesTest(parameterized.TestCase):

  def test_saved_router_decides_the_same(self):
    plain = _router()
    router = _router(points=(_point(plain),))
    directory = self.create_tempdir().full_path
    router.save(directory)
    loaded = routing.load(directory)
    self.assertEqual(loaded.checkpoint_hash, router.checkpoint_hash)
    self.assertEqual(loaded.card, _card(network=loaded.card.network))
    self.assertEqual(loaded.points, router.points)
    self.assertEqual(str(loaded), str(router))
    for value in (-0.1, -1.0, -7.0):
      self.assertEqual(
          loaded.decide(_trace(value)), router.decide(_trace(value))
      )

  def test_the_record_of_seen_problems_is_saved(self):
    problem = types.Problem(id='a', question='What is 1?', answer='1')
    seen = seen_lib.NOTHING.with_problems('train', [problem])
    router = _router(seen=seen)
    # The record does not change the hash of the arrays.
    self.assertEqual(router.checkpoint_hash, _router().checkpoint_hash)
    self.assertEqual(router.with_threshold(1, 0.5).seen, seen)
    directory = pathlib.Path(self.create_tempdir().full_path)
    router.save(directory)
    loaded = learned.load(directory)
    self.assertEqual(loaded.seen, seen)
    with self.assertRaisesRegex(ValueError, "Problem 'a' .*'train'"):
      loaded.seen.check('prove', [problem])
    # Saved without a record, it does not inherit the one that was there.
    _router().save(directory)
    self.assertEqual(learned.load(directory).seen, seen_lib.UNKNOWN)

  def test_another_record_or_none_raises(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router(seen=seen_lib.NOTHING).save(directory)
    path = directory / learned.SEEN_FILE
    problem = types.Problem(id='a', question='What is 1?', answer='1')
    other = seen_lib.NOTHING.with_problems('train', [problem])
    for change in (lambda: seen_lib.write(path, other), path.unlink):
      change()
      with self.assertRaisesRegex(ValueError, 'seen.json is missing or is not'):
        learned.load(directory)

  def test_an_old_router_without_a_record_loads_as_unknown(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router(seen=seen_lib.NOTHING).save(directory)
    (directory / learned.SEEN_FILE).unlink()
    path = directory / learned.CARD_FILE
    card = json.loads(path.read_text())
    del card['seen_hashes']
    path.write_text(json.dumps(card))
    self.assertFalse(learned.load(directory).seen.is_known)

  def test_an_interrupted_update_of_the_record_still_loads(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router(seen=seen_lib.NOTHING).save(directory)
    problem = types.Problem(id='a', question='What is 1?', answer='1')
    new = seen_lib.NOTHING.with_problems('prove', [problem])
    write, calls = manifest_lib.replace_file, []

    def cancel_speculation(path, content):
      calls.append(path)
      if len(calls) == 2:
        raise OSError('disk full')
      write(path, content)

    with mock.patch.object(seen_lib, 'write', side_effect=OSError('full')):
      with self.assertRaises(OSError):
        saved.replace_seen(directory, new)
    self.assertEqual(learned.load(directory).seen, seen_lib.NOTHING)
    with mock.patch.object(manifest_lib, 'replace_file', cancel_speculation):
      with self.assertRaises(OSError):
        saved.replace_seen(directory, new)
    self.assertEqual(learned.load(directory).seen, new)
    saved.replace_seen(directory, new)
    card = saved.read_card(directory)
    self.assertEqual(card['seen_hashes'], [new.hash])
    self.assertEqual(learned.load(directory).seen, new)

  def test_the_shipped_router_is_bound_to_its_record(self):
    card = saved.read_card(learned.SHIPPED)
    self.assertEqual(card['seen_hashes'], [routing.load().seen.hash])

  def test_altered_weights_raise(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router().save(directory)
    arrays = safetensors.load_file(directory / learned.ARRAYS_FILE)
    arrays['params/Dense_0/bias'] = arrays['params/Dense_0/bias'] + 1
    safetensors.save_file(arrays, directory / learned.ARRAYS_FILE)
    with self.assertRaisesRegex(ValueError, 'do not belong together'):
      learned.load(directory)

  def test_an_altered_card_raises(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router().save(directory)
    path = directory / learned.CARD_FILE
    path.write_text(path.read_text().replace('"peek"', '"commit"'))
    with self.assertRaisesRegex(ValueError, 'do not belong together'):
      learned.load(directory)

  def test_an_unfinished_run_raises(self):
    with self.assertRaisesRegex(ValueError, 'no router was trained'):
      learned.load(self.create_tempdir().full_path)

  def test_another_format_version_raises(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    _router().save(directory)
    path = directory / learned.CARD_FILE
    saved = json.loads(path.read_text())
    saved['card']['format_version'] = 99
    path.write_text(json.dumps(saved))
    with self.assertRaisesRegex(ValueError, 'version 99; allowed: 1'):
      learned.load(directory)

  def test_hash_depends_on_weights_and_card(self):
    hashes = {
        _router().checkpoint_hash,
        _router(seed=1).checkpoint_hash,
        _router(metric='flops').checkpoint_hash,
    }
    self.assertLen(hashes, 3)
    self.assertEqual(_router().checkpoint_hash, _router().checkpoint_hash)


class OperatingPointsTest(parameterized.TestCase):

  def test_at_a_named_point(self):
    plain = _router()
    points = (
        _point(plain),
        _point(plain, name='cost<=0.6', policy_index=0, threshold=0.9),
    )
    router = _router(points=points)
    # The first is where a loaded router stands.
    self.assertEqual((router.policy_index, router.threshold), (1, 0.37))
    other = router.at('cost<=0.6')
    self.assertEqual((other.policy_index, other.threshold), (0, 0.9))
    self.assertEqual((router.policy_index, router.threshold), (1, 0.37))
    with self.assertRaisesRegex(ValueError, "has: 'cost<=0.4', 'cost<=0.6'"):
      router.at('cost<=0.9')

  def test_uncalibrated_router_has_no_points(self):
    with self.assertRaisesRegex(ValueError, 'this router has: none'):
      _router().at('cost<=0.4')

  @parameterized.parameters(
      (dict(checkpoint_hash='0' * 64), 'calibrated on checkpoint 0000'),
      (dict(policy_index=2), 'policy 2; allowed: 0 to 1'),
  )
  def test_a_point_of_another_router_raises(self, changes, message):
    plain = _router()
    directory = pathlib.Path(self.create_tempdir().full_path)
    plain.save(directory)
    point = vars(_point(plain, **changes))
    (directory / learned.POINTS_FILE).write_text(json.dumps([point]))
    with self.assertRaisesRegex(ValueError, message):
      learned.load(directory)

  def test_unknown_fields_of_a_point_are_ignored(self):
    plain = _router()
    directory = pathlib.Path(self.create_tempdir().full_path)
    plain.save(directory)
    point = {**vars(_point(plain)), 'note': 'abc'}
    (directory / learned.POINTS_FILE).write_text(json.dumps([point]))
    self.assertEqual(learned.load(directory).points, (_point(plain),))

  def test_print_describes_the_router(self):
    plain = _router()
    text = str(_router(points=(_point(plain),)))
    for part in (
        'small (1,000 parameters) -> medium (4,000',
        'escalate, peek',
        'confidence, progress, text',
        'budget 0.3, 0.6, cost metric price',
        plain.checkpoint_hash[:12],
        'cost<=0.4: policy 1, threshold 0.37',
    ):
      self.assertIn(part, text)
    self.assertIn('not calibrated', str(plain))


class CardTest(absltest.TestCase):

  def test_accounting_is_that_of_training(self):
    accounting = _card().accounting
    self.assertEqual(
        accounting, costs.Accounting(scripted_pair.SPECS, 'price', 2e-4)
    )

  def test_json_round_trip(self):
    card = _card()
    text = json.dumps(card.to_json())
    again = card_lib.Card.from_json(json.loads(text))
    self.assertEqual(again.to_json(), card.to_json())
    self.assertEqual(again.features, card.features)


if __name__ == '__main__':
  absltest.main()
