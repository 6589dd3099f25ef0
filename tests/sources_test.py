"""Tests that known, recorded and live outcomes of a router agree."""

import dataclasses
import functools
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import costs
from routing import protocols
from routing.features import observation
from routing.features import standardize
from routing.grading import equivalence
from routing.outcomes import live
from routing.outcomes import live_answers
from routing.outcomes import points as points_lib
from routing.outcomes import records
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.policy import networks
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import behaviour
from routing.routers import card as card_lib
from routing.routers import families
from routing.routers import learned
from routing.shards import json_cache
from tests import scripted_pair
from tests import trees_test

NUM_ROUTES = 3
NUM_PROBLEMS = 12
_METRIC = 'price'
ACCOUNTING = costs.Accounting(scripted_pair.SPECS, reference=1e-4)
FEATURES = observation.FeatureConfig(
    ('confidence', 'progress', 'cost', 'text', 'hidden'),
    NUM_ROUTES,
    8,
    hidden_size=4,
    question_width=8,
    step_width=8,
)
# Quick to compute, for families that look at no feature.
_FEW_FEATURES = observation.FeatureConfig(('progress',), NUM_ROUTES, 8)
PROTOCOLS = ('escalate', 'switch', 'redraft')


@functools.cache
def known_source(name):
  """Returns a source of all paths through the scripted problems."""
  if name == 'escalate':
    ladders = scripted_pair.make_ladders(NUM_PROBLEMS)
    table = records.ladder_table(
        ladders, FEATURES, ACCOUNTING, protocols.Protocol(name)
    )
  else:
    table = trees_test.make_table(
        name, NUM_PROBLEMS, NUM_ROUTES, FEATURES, ACCOUNTING
    )
  return sources.Known(table, scripted_pair.make_problems(NUM_PROBLEMS))


def _engines():
  return scripted_pair.make_engines(NUM_ROUTES)


def live_source(name, folder=None, make_engines=None, **changes):
  """Returns a live source of the same problems."""
  table = known_source(name).table
  return live.Live(
      live_answers.Answering(
          make_engines=make_engines or _engines,
          protocol=protocols.Protocol(name),
          accounting=ACCOUNTING,
          sampling=step_requests.Sampling(max_decisions=8, max_tokens=100),
          grade=equivalence.exact,
      ),
      problems=scripted_pair.make_problems(NUM_PROBLEMS),
      large_correct=table.large_correct,
      large_cost=table.large_cost,
      folder=folder,
      **changes,
  )


def make_policy(name, kind, seed=0):
  """Returns the policy of an untrained network."""
  fields = dict(kind=kind, hidden=(8,), dropout=0.0)
  network = networks.make_network(fields, NUM_ROUTES)
  params = jax.vmap(
      lambda key: networks.init_params(key, network, FEATURES.size)
  )(jax.random.split(jax.random.key(seed), 2))
  last = sorted(x for x in params if x.startswith('Dense'))[-1]
  params[last]['kernel'] *= 30
  card = card_lib.Card(
      specs=scripted_pair.SPECS,
      metric=_METRIC,
      reference=ACCOUNTING.reference,
      protocol=protocols.Protocol(name),
      features=FEATURES,
      network=fields,
      form='budget',
      levels=(0.3, 0.6),
  )
  size = FEATURES.size
  statistics = standardize.Statistics(
      np.full(size, 0.1, np.float32), np.full(size, 0.3, np.float32)
  )
  return families.PolicyFamily(
      learned.LearnedRouter(card, params, statistics), 1
  )


@dataclasses.dataclass(frozen=True)
class Line:
  """A scorer that also returns the larger route that it would choose."""

  seed: int = 0

  def score(self, features):
    weights = np.random.default_rng(self.seed).normal(
        size=(features.shape[1], NUM_ROUTES - 1)
    )
    values = features.astype(np.float64) @ weights
    return values.max(axis=1), 1 + values.argmax(axis=1)


FAMILIES = {
    'mlp': lambda name: make_policy(name, 'mlp'),
    'gru': lambda name: make_policy(name, 'gru'),
    'scored': lambda name: families.Scored(Line(), FEATURES, 2),
    'uncertainty': lambda name: families.Uncertainty(2),
    'uncertainty, mean': lambda name: families.Uncertainty(2, 'mean'),
    'fixed step': lambda name: families.FixedStep(1),
}


class FamiliesTest(parameterized.TestCase):

  @parameterized.product(name=PROTOCOLS, kind=tuple(FAMILIES))
  def test_known_outcomes_equal_those_of_the_live_router(self, name, kind):
    known, family = known_source(name), FAMILIES[kind](name)
    grid = known.grid(family, 3)
    self.assertEqual([grid[0], grid[-1]], [-np.inf, np.inf])
    if kind.startswith(('uncertainty', 'fixed step')):
      # A threshold at a score and one just above it give different policies.
      kappas = np.unique([*grid, np.nextafter(grid[1], np.inf)])
    else:  # Scores of one row and of many differ in their last digits.
      scores = np.unique(family.score(known.table.decisions)[0])
      place = np.searchsorted(scores, grid[1:-1])
      middle = (scores[place] + scores[place - 1]) / 2
      kappas = np.array([-np.inf, *middle, np.inf])
    wanted = known.evaluate(family, kappas, _METRIC)
    got = live_source(name).evaluate(family, kappas, _METRIC)
    for field in ('correct', 'loss', 'gain'):
      np.testing.assert_array_equal(getattr(got, field), getattr(wanted, field))
    np.testing.assert_allclose(got.cost, wanted.cost, rtol=1e-6)
    self.assertGreater(np.unique(wanted.mean_cost).size, 1)

  def test_fingerprints_differ_between_fits(self):
    make = lambda seed: families.Scored(Line(seed), FEATURES, 2).fingerprint
    self.assertEqual(make(0), make(0))
    self.assertNotEqual(make(0), make(1))
    found = {make('switch').fingerprint for make in FAMILIES.values()}
    self.assertLen(found, len(FAMILIES))


@dataclasses.dataclass(frozen=True)
class Deterministic:
  """A policy with probability 1 on the route of a router."""

  router: driver.Router

  def action_probabilities(self, trace):
    return np.eye(NUM_ROUTES)[self.router.decide(trace).route]


class RecordedTest(parameterized.TestCase):

  @parameterized.parameters('switch', 'redraft', 'escalate')
  def test_the_estimate_is_near_the_known_value(self, name):
    known = known_source(name)
    family = families.Uncertainty(2)
    kappas = known.grid(family, 3)
    wanted = known.evaluate(family, kappas, _METRIC)
    off = {field: [] for field in points_lib.NAMES}
    # The problems are the same each time; what varies is what is collected, so
    # its spread over repetitions is the error of the estimate. That over
    # problems is many times as wide, and hides a forgotten weight.
    for seed in range(8):
      rollouts = scripted_pair.make_rollouts(
          NUM_PROBLEMS,
          protocol=name,
          num_trajectories=40,
          behaviour=behaviour.random_rate(NUM_ROUTES, seed),
      )
      recorded = records.recorded_source(
          rollouts, _FEW_FEATURES, ACCOUNTING, protocols.Protocol(name), 0.0
      )
      got = recorded.evaluate(family, kappas, _METRIC)
      for field, found in off.items():
        difference = getattr(got, field) - getattr(wanted, field)
        found.append(difference.mean(axis=1))
    for field, found in off.items():
      error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
      mean = np.abs(np.mean(found, axis=0))
      self.assertLess(error.max(), 0.08, field)
      self.assertTrue((mean <= 5 * error + 1e-3).all(), (field, mean, error))
    np.testing.assert_array_equal(
        recorded.largest_alone().correct, known.largest_alone().correct
    )

  @parameterized.product(name=PROTOCOLS, kind=('fixed step', 'scored'))
  def test_nearly_on_policy_trajectories_give_a_precise_estimate(
      self, name, kind
  ):
    known, family = known_source(name), FAMILIES[kind](name)
    features = FEATURES if kind == 'scored' else _FEW_FEATURES
    met = np.unique(family.score(known.table.decisions)[0])
    # No tie to round: it lies just below a score.
    kappas = np.nextafter(met[[len(met) * 3 // 4]], -np.inf)
    policy = behaviour.Mixture(
        Deterministic(family.at(kappas[0])),
        behaviour.Uniform((True,) * NUM_ROUTES),
        epsilon=0.3,
    )
    wanted = known.evaluate(family, kappas, _METRIC)
    off = {field: [] for field in points_lib.NAMES}
    for seed in range(8):
      rollouts = scripted_pair.make_rollouts(
          NUM_PROBLEMS,
          protocol=name,
          num_trajectories=25,
          behaviour=behaviour.drawn(policy, seed),
      )
      recorded = records.recorded_source(
          rollouts, features, ACCOUNTING, protocols.Protocol(name), 0.0
      )
      got = recorded.evaluate(family, kappas, _METRIC)
      for field, found in off.items():
        found.append(np.mean(getattr(got, field) - getattr(wanted, field)))
    for field, found in off.items():
      error = np.std(found, ddof=1) / np.sqrt(len(found))
      self.assertLess(error, 0.02, field)
      self.assertLessEqual(abs(np.mean(found)), 5 * error + 1e-6, field)

  def test_too_few_effective_trajectories_raise(self):
    rollouts = scripted_pair.make_rollouts(6, protocol='redraft')
    recorded = records.recorded_source(
        rollouts, FEATURES, ACCOUNTING, protocols.Protocol('redraft'), 7.0
    )
    family = families.Uncertainty(2)
    self.assertFalse(recorded.answerable(family, np.array([-np.inf])).any())
    with self.assertRaisesRegex(refusal.Refusal, 'None of .* thresholds'):
      recorded.frontier(family, _METRIC, 5)
    with self.assertRaises(refusal.Refusal):
      recorded.evaluate(family, np.array([np.inf]), _METRIC)


class LiveTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self._folder = pathlib.Path(self.create_tempdir().full_path)
    self._asked = []  # The thresholds that engines were asked to answer at.
    self._family, self._kappas = families.FixedStep(2), np.array([1, 2, np.inf])

  def _evaluate(self, kappas=None, metric=_METRIC, fails_at=None, **changes):
    """Answers of a new source, as a new process would have it."""
    source = live_source('redraft', self._folder)
    answering = dataclasses.replace(source.answering, **changes)
    real = live_answers.answer_all

    async def answer_all(answering, kept, *rest):
      if len(self._asked) == fails_at:
        raise KeyboardInterrupt
      self._asked.append(getattr(kept.asked.router, 'step', np.inf))
      return await real(answering, kept, *rest)

    with mock.patch.object(live_answers, 'answer_all', answer_all):
      return dataclasses.replace(source, answering=answering).evaluate(
          self._family, self._kappas if kappas is None else kappas, metric
      )

  def test_answers_are_cached(self):
    first = self._evaluate()
    again = self._evaluate()
    for field in points_lib.NAMES:
      np.testing.assert_array_equal(
          getattr(again, field), getattr(first, field)
      )
    self._evaluate(metric='flops')  # The same answers in another metric.
    one = self._evaluate(self._kappas[1:2])  # One of them, or in another order.
    np.testing.assert_array_equal(one.cost, first.cost[1:2])
    np.testing.assert_array_equal(
        self._evaluate(self._kappas[::-1]).cost, first.cost[::-1]
    )
    self.assertEqual(self._asked, [1, 2, np.inf])
    self._evaluate(np.array([0.0, 1.0]))
    self.assertEqual(self._asked, [1, 2, np.inf, 0])

  def test_answers_before_an_interruption_are_cached(self):
    with self.assertRaises(KeyboardInterrupt):
      self._evaluate(fails_at=2)
    self.assertEqual(self._asked, [1, 2])
    self.assertLen(list(self._folder.glob('*.log')), 2)
    got = self._evaluate()
    self.assertEqual(self._asked, [1, 2, np.inf])
    want = live_source('redraft').evaluate(self._family, self._kappas, _METRIC)
    np.testing.assert_array_equal(got.cost, want.cost)
    np.testing.assert_array_equal(got.correct, want.correct)

  def test_other_settings_are_answered_again(self):
    kappas = self._kappas[:1]
    medium = dataclasses.replace(scripted_pair.SPECS[1], price_output=5.0)
    specs = scripted_pair.SPECS[0], medium, scripted_pair.SPECS[2]
    self._evaluate(kappas)
    for number, changes in enumerate(
        (
            {'made_by': {'weights_sha256': ['other', 'medium', 'large']}},
            {
                'sampling': step_requests.Sampling(
                    max_decisions=8, max_tokens=99
                )
            },
            {'protocol': protocols.Protocol('switch')},
            {'accounting': costs.Accounting(specs, reference=1e-4)},
            {'accounting': costs.Accounting(scripted_pair.SPECS, reference=1)},
            {'grade': equivalence.MathVerify()},
            {'grade': equivalence.Exact(('boxed',))},
            {'seed': 1},
        )
    ):
      for _ in range(2):
        self._evaluate(kappas, **changes)
      self.assertLen(self._asked, 2 + number)

  def test_a_router_of_other_weights_is_answered_again(self):
    fingerprints = {
        make_policy('redraft', 'mlp', x).fingerprint for x in (0, 1)
    }
    self.assertLen(fingerprints, 2)
    other = dataclasses.replace(FEATURES, step_width=16)
    wide = families.Scored(Line(), other, 2).fingerprint
    self.assertNotEqual(wide, families.Scored(Line(), FEATURES, 2).fingerprint)

  def test_a_grid_needs_scores(self):
    with self.assertRaisesRegex(ValueError, 'trajectories of a behaviour'):
      live_source('redraft').grid(families.Uncertainty(), 5)

  def test_a_truncated_cache_file_is_answered_again(self):
    path = self._folder / 'made.json'
    whole = pathlib.Path.write_text

    def write_half(self, text):
      whole(self, text[: len(text) // 2])
      raise KeyboardInterrupt

    with mock.patch.object(pathlib.Path, 'write_text', write_half):
      with self.assertRaises(KeyboardInterrupt):
        json_cache.save(path, 1, list(range(100)))
    self.assertNotEmpty(list(path.parent.iterdir()))  # The half is there.
    self.assertIsNone(json_cache.load(path, 1))
    json_cache.save(path, 1, [1])
    self.assertEqual(json_cache.load(path, 1), [1])
    self.assertIsNone(json_cache.load(path, 2))
    self.assertLen(list(path.parent.iterdir()), 1)


if __name__ == '__main__':
  absltest.main()
