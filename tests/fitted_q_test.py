"""Tests of fitted Q-iteration where the best rule is known."""

import dataclasses
import itertools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.features import observation
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.routers import boosted_trees
from routing.routers import fitted_q
from routing.routers import learners

_METRIC = 'price'
# Next to nothing is shrunk, since features are indicators.
_RIDGE = {'penalty': 1e-4}


def _features(num_routes):
  return observation.FeatureConfig(
      groups=('progress',), num_routes=num_routes, max_decisions=2
  )


def _indicator(index, size):
  row = np.zeros(size, np.float32)
  row[index] = 1.0
  return row


def _fit(name, data, num_routes=2, setting=None):
  """Returns the rule at each price: from features to routes."""
  learner = learners.LEARNERS[name]
  found = learner.fit(
      data,
      metric=_METRIC,
      features=_features(num_routes),
      setting=setting or learner.settings[0],
      seed=0,
  )
  return dict(zip(fitted_q.PRICES, found, strict=True))


def _named(family, features):
  """Returns routes at threshold 0: larger where the advantage is >= 0."""
  decisions = table_lib.Decisions(
      features=np.stack(features),
      uncertainty=np.zeros((len(features), 3), np.float32),
      depth=np.zeros(len(features), np.int32),
      parents=np.full(len(features), -1, np.int32),
  )
  scores, routes = family.score(decisions)
  return list(np.where(scores >= 0, routes, 0))


# Waiting: half of the problems are hard, which is seen at the second decision
# alone. Handing over costs .9 at once and `late` afterwards; the small model
# costs .2 and is right on easy problems.
_START, _EASY, _HARD = (_indicator(i, 3) for i in range(3))


def _waiting(late, num=200):
  builder = table_lib.TableBuilder([_METRIC])
  for index in range(num):
    is_hard = index % 2 == 1
    builder.begin_problem(1.0)
    first = builder.add_decision(_START, 0.0, 2)
    builder.add_ending((first, 1), 1.0, 0.0, [0.9])
    second = builder.add_decision(
        _HARD if is_hard else _EASY, 0.0, 2, (first, 0)
    )
    builder.add_ending((second, 1), 1.0, 0.0, [late])
    right = float(not is_hard)
    builder.add_ending((second, 0), right, 1 - right, [0.2])
  return builder.table()


class WaitingTest(parameterized.TestCase):

  @parameterized.parameters('fitted Q, linear', 'fitted Q, trees')
  def test_it_waits_where_waiting_is_better(self, name):
    # Late at 1: waiting is worth 1 - .6 price while hard ones are handed over,
    # more than 1 - .9 price at once. A hard one is handed over if 1 - price is
    # at least -.2 price: up to a price of 1.25.
    setting = _RIDGE if name.endswith('linear') else None
    rules = _fit(name, _waiting(1.0), setting=setting)
    for price, hard in ((0.3, 1), (0.6, 1), (1.0, 1), (1.6, 0)):
      got = _named(rules[price], [_START, _EASY, _HARD])
      self.assertEqual(got, [0, 0, hard], price)

  @parameterized.parameters('fitted Q, linear', 'fitted Q, trees')
  def test_it_does_not_wait_where_waiting_is_expensive(self, name):
    # Late at 1.8: hard ones are handed over up to a price of 1 / 1.6 = .625,
    # and waiting is then worth 1 - price, less than 1 - .9 price. Above it
    # waiting is worth .5 - .2 price, more than at once from 1 / 1.4 = .714 on.
    setting = _RIDGE if name.endswith('linear') else None
    rules = _fit(name, _waiting(1.8), setting=setting)
    for price, wanted in (
        (0.3, [1, 0, 1]),
        (0.6, [1, 0, 1]),
        (1.0, [0, 0, 0]),
        (1.6, [0, 0, 0]),
    ):
      got = _named(rules[price], [_START, _EASY, _HARD])
      self.assertEqual(got, wanted, price)


# Where control returns: two steps, each hard or not. The small model costs .1 a
# step and fails hard ones; the large one costs .5 and never fails. The
# observation: is the next step hard, and are all steps so far right.
_STATES = (
    *((0, hard, True) for hard in (False, True)),
    *((1, *x) for x in itertools.product((False, True), repeat=2)),
)
_KINDS = tuple(itertools.product((False, True), repeat=2))


def _seen(depth, hard, is_right):
  return _indicator(_STATES.index((depth, hard, is_right)), len(_STATES))


def _two_steps(num=200):
  builder = table_lib.TableBuilder([_METRIC])
  for index in range(num):
    hard = _KINDS[index % 4]
    builder.begin_problem(1.0)
    root = builder.add_decision(_seen(0, hard[0], True), 0.0, 2)
    for first in range(2):
      is_right = bool(first) or not hard[0]
      node = builder.add_decision(
          _seen(1, hard[1], is_right), 0.0, 2, (root, first)
      )
      for second in range(2):
        right = is_right and (bool(second) or not hard[1])
        cost = 0.2 + 0.4 * (first + second)
        builder.add_ending((node, second), right, 1 - right, [cost])
  return builder.table()


def _value(rule, price):
  """Returns the mean reward of a rule, a route per state, over four kinds."""
  total = 0.0
  for hard in _KINDS:
    first = rule[_STATES.index((0, hard[0], True))]
    is_right = bool(first) or not hard[0]
    second = rule[_STATES.index((1, hard[1], is_right))]
    right = is_right and (bool(second) or not hard[1])
    total += right - price * (0.2 + 0.4 * (first + second))
  return total / len(_KINDS)


def _drawn(num, seed=0):
  """Returns the same as trajectories of a uniform behaviour policy."""
  rng = np.random.default_rng(seed)
  actions = rng.integers(2, size=(num, 2)).astype(np.int32)
  hard = np.array([_KINDS[i % 4] for i in range(num)])
  kept = (actions == 1) | ~hard
  features = np.stack(
      [
          [_seen(0, h[0], True), _seen(1, h[1], bool(k[0]))]
          for h, k in zip(hard, kept, strict=True)
      ]
  )
  costs = (0.1 + 0.4 * actions).astype(np.float32)
  correct = kept.all(axis=1).astype(np.float32)
  batch = types.TrajectoryBatch(
      features=features,
      mask=np.ones((num, 2), bool),
      available=np.ones((num, 2, 2), bool),
      actions=actions,
      behaviour=np.full((num, 2), 0.5, np.float32),
      costs=costs,
      correct=correct,
      loss=1 - correct,
      gain=np.zeros(num, np.float32),
  )
  return sources.Recorded(
      batch=batch,
      costs={_METRIC: costs},
      uncertainty=np.zeros((num, 2, 3)),
      owner=np.arange(num),
      large_correct=np.ones(num),
      problems=(),
  )


class ReturningControlTest(parameterized.TestCase):

  @parameterized.parameters('known', 'recorded')
  def test_no_other_rule_is_better(self, kind):
    data = _two_steps() if kind == 'known' else _drawn(4_000)
    states = [_seen(*state) for state in _STATES]
    fitted = _fit('fitted Q, linear', data, setting=_RIDGE)
    self.assertNotEmpty(fitted)
    for price, family in fitted.items():
      got = _named(family, states)
      best = max(
          _value(rule, price)
          for rule in itertools.product(range(2), repeat=len(_STATES))
      )
      self.assertAlmostEqual(_value(got, price), best, msg=price)

  def test_answers_that_are_already_wrong_stay_small(self):
    rules = _fit('fitted Q, linear', _two_steps(), setting=_RIDGE)
    second = [_seen(1, True, True), _seen(1, True, False)]
    # .4 of the cost buys an answer in the first case and none in the other.
    self.assertEqual(_named(rules[1.0], second), [1, 0])

  def test_a_route_that_was_never_taken_raises(self):
    data = _drawn(40)
    actions = np.zeros_like(data.batch.actions)
    never = sources.Recorded(
        batch=data.batch.replace(actions=actions),
        costs=data.costs,
        uncertainty=data.uncertainty,
        owner=data.owner,
        large_correct=data.large_correct,
        problems=(),
    )
    for name in ('fitted Q, linear', 'fitted Q, trees'):
      with self.assertRaisesRegex(ValueError, 'chooses route 1'):
        _fit(name, never)


class ThreeRoutesTest(parameterized.TestCase):

  @parameterized.parameters('fitted Q, linear', 'fitted Q, trees')
  def test_the_better_of_two_larger_routes_is_chosen(self, name):
    # Route 1 costs .4 and is right on one kind, route 2 costs 1 and is right
    # on both; the small one costs 0 and is never right.
    kinds = [_indicator(i, 2) for i in range(2)]
    builder = table_lib.TableBuilder([_METRIC])
    for index in range(200):
      builder.begin_problem(1.0)
      here = builder.add_decision(kinds[index % 2], 0.0, 3)
      builder.add_ending((here, 0), 0.0, 1.0, [0.0])
      right = float(index % 2 == 0)
      builder.add_ending((here, 1), right, 1 - right, [0.4])
      builder.add_ending((here, 2), 1.0, 0.0, [1.0])
    setting = _RIDGE if name.endswith('linear') else None
    rules = _fit(name, builder.table(), num_routes=3, setting=setting)
    for price, wanted in ((0.3, [1, 2]), (0.6, [1, 2]), (1.6, [1, 0])):
      self.assertEqual(_named(rules[price], kinds), wanted, price)


def _numbered_table(num):
  """Returns problems with 1 + n % 4 decisions; features are n and depth."""
  builder = table_lib.TableBuilder([_METRIC])
  for index in range(num):
    builder.begin_problem(1.0)
    before = None
    for depth in range(1 + index % 4):
      here = builder.add_decision(np.array([index, depth]), 0.0, 2, before)
      builder.add_ending((here, 1), 1.0, 0.0, [1.0])
      before = here, 0
    builder.add_ending(before, 0.0, 1.0, [0.1])
  return builder.table()


def _numbered_trajectories(num):
  """Returns problems with 1 + n % 4 trajectories of 1 or 2 decisions."""
  owner = np.repeat(np.arange(num), 1 + np.arange(num) % 4)
  drawn = _drawn(len(owner))
  steps = np.broadcast_to(np.arange(2), (len(owner), 2))
  numbered = np.stack([np.stack([owner] * 2, axis=1), steps], axis=-1)
  mask = np.stack([np.ones_like(owner), np.arange(len(owner)) % 2], axis=1)
  batch = drawn.batch.replace(
      features=numbered.astype(np.float32), mask=mask.astype(bool)
  )
  return dataclasses.replace(drawn, batch=batch, owner=owner)


class SampleTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_trees_are_fitted_on_whole_problems(self, is_known):
    make = _numbered_table if is_known else _numbered_trajectories
    data = make(400)
    every = data.decisions.features
    given = []

    def learner(features, setting, objective):
      del setting, objective
      given.append(features)
      return lambda targets: lambda rows: np.zeros(len(rows))

    limit = len(every) // 2
    with (
        mock.patch.object(fitted_q, 'MAX_TREE_ROWS', limit),
        mock.patch.object(boosted_trees, 'learner', learner),
    ):
      _fit('fitted Q, trees', data)
    rows = np.concatenate(given)  # From trajectories each route's own.
    count = lambda x: np.bincount(x[:, 0].astype(int), minlength=400)
    kept = count(rows) > 0
    np.testing.assert_array_equal(count(rows), np.where(kept, count(every), 0))
    # Each of 400 problems is drawn with probability 1/2; 5 standard errors.
    self.assertAlmostEqual(kept.mean(), 0.5, delta=5 * 0.5 / 20)
    self.assertAlmostEqual(len(rows) / limit, 1.0, delta=0.2)


class RidgeTest(absltest.TestCase):

  def test_equals_the_normal_equations(self):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 4)) * [1.0, 5.0, 0.2, 1.0] + [0.0, 3.0, 1.0, -2]
    targets = rows @ [1.0, -0.3, 2.0, 0.0] + rng.normal(size=50)
    rows = rows.astype(np.float32)
    got = fitted_q.ridge(rows, 0.2)(targets)(rows)
    # The same on standardised columns; the constant is not shrunk.
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    weights = np.linalg.solve(
        scaled.T @ scaled + 0.2 * 50 * np.eye(4),
        scaled.T @ (targets - targets.mean()),
    )
    wanted = scaled @ weights + targets.mean()
    np.testing.assert_allclose(got, wanted, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
