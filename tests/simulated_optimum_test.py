"""Tests of the constrained optimum: enumeration, and linear programs."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import optimize

from routing import protocols
from routing.simulation import history_tree as tree_lib
from routing.simulation import optimum
from routing.simulation import process as process_lib
from tests import simulation_test

PROTOCOLS = simulation_test.ALL


def all_values(tree):
  """Returns `[P, 3]` values of all deterministic policies of the history."""
  sizes = [len(level.chance) for level in tree.levels]
  eye = np.eye(tree.process.num_routes)
  rows = []
  for actions in itertools.product(range(len(eye)), repeat=sum(sizes)):
    policy = np.split(eye[list(actions)], np.cumsum(sizes)[:-1])
    rows.append(tree_lib.evaluate(tree, policy))
  return np.asarray(rows)


def best_mixture(values, level, form):
  """Returns the best objective of a random draw among P policies, by an LP."""
  gain, charge = optimum.FORMS[form]
  solved = optimize.linprog(
      -values @ np.asarray(gain),
      A_ub=(values @ np.asarray(charge))[None],
      b_ub=[level],
      A_eq=np.ones((1, len(values))),
      b_eq=[1.0],
  )
  return -solved.fun


def best_flow(tree, level, form):
  """Returns the same by an LP over realisation probabilities of actions.

  The unknown x[history, action] is the product of the policy's probabilities
  up to this action. Over the actions of a history they sum to the x of the
  parent's action.

  Source: Koller and Megiddo 1992, the sequence form.
  """
  gain, charge = map(np.asarray, optimum.FORMS[form])
  num_routes = tree.process.num_routes
  sizes = [len(x.chance) for x in tree.levels]
  starts = np.concatenate([[0], np.cumsum(sizes)])
  balance = np.zeros((starts[-1], starts[-1] * num_routes))
  for n in range(starts[-1]):
    balance[n, n * num_routes : (n + 1) * num_routes] = 1.0
  for t, after in enumerate(tree.levels[1:], start=1):
    source = (starts[t - 1] + after.parent) * num_routes + after.action
    balance[starts[t] + np.arange(sizes[t]), source] = -1.0
  gains = np.concatenate([x.gains.reshape(-1, 3) for x in tree.levels])
  solved = optimize.linprog(
      -gains @ gain,
      A_ub=(gains @ charge)[None],
      b_ub=[level],
      A_eq=balance,
      b_eq=np.arange(starts[-1]) < sizes[0],
      bounds=(0, 1),
  )
  return -solved.fun


def _fixed_actions(tree, actions):
  """Returns the policy that takes fixed actions, whatever it observes."""
  eye = np.eye(tree.process.num_routes)
  return [
      np.tile(eye[action], (len(level.chance), 1))
      for action, level in zip(actions, tree.levels, strict=True)
  ]


class OptimumTest(parameterized.TestCase):

  @parameterized.named_parameters(*PROTOCOLS[:3])
  def test_equals_the_best_of_all_policies(self, protocol):
    tree = tree_lib.build(simulation_test.TINY, protocol)
    values = all_values(tree)
    for form, levels in (
        ('budget', (0.25, 0.5, 0.8)),
        ('reliability', (0.02, 0.1, 0.3)),
    ):
      for level in levels:
        got = optimum.solve(tree, level, form=form)
        objective = np.dot(optimum.FORMS[form][0], got.values)
        expected = best_mixture(values, level, form)
        self.assertAlmostEqual(objective, expected, places=8)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_equals_the_sequence_form(self, protocol):
    process = process_lib.Process(num_steps=3)
    tree = tree_lib.build(process, protocol)
    for form, level in (('budget', 0.4), ('reliability', 0.05)):
      got = optimum.solve(tree, level, form=form)
      objective = np.dot(optimum.FORMS[form][0], got.values)
      self.assertAlmostEqual(objective, best_flow(tree, level, form), places=8)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_spends_the_budget_and_is_random_at_few_histories(self, protocol):
    tree = tree_lib.build(process_lib.three_routes(num_steps=3), protocol)
    got = optimum.solve(tree, 0.4)
    self.assertAlmostEqual(got.values.cost, 0.4)
    self.assertGreater(got.multiplier, 0.0)
    for table in got.policy:
      np.testing.assert_allclose(table.sum(axis=1), 1.0)

  def test_accuracy_is_concave_in_the_budget(self):
    tree = tree_lib.build(process_lib.Process(), protocols.Protocol('switch'))
    solved = [optimum.solve(tree, b) for b in (0.2, 0.4, 0.6, 0.8, 1.0)]
    correct = np.array([x.values.correct for x in solved])
    slopes = np.diff(correct) / 0.2
    self.assertTrue((slopes > 0).all())
    self.assertTrue((np.diff(slopes) < 0).all())
    # Multipliers are the slopes at the budgets, so they are between the chords.
    multipliers = np.array([x.multiplier for x in solved])
    self.assertTrue((multipliers[:-1] >= slopes).all())
    self.assertTrue((multipliers[1:] <= slopes).all())

  def test_a_large_budget_gives_the_best_accuracy(self):
    tree = tree_lib.build(process_lib.Process(), protocols.Protocol('escalate'))
    got = optimum.solve(tree, 5.0)
    self.assertEqual(got.multiplier, 0.0)
    best = tree_lib.best_response(tree, (1.0, 0.0, 0.0))[1]
    self.assertEqual(got.values, best)

  def test_zero_loss_needs_the_largest_model(self):
    tree = tree_lib.build(process_lib.Process(), protocols.Protocol('switch'))
    got = optimum.solve(tree, 0.0, form='reliability')
    self.assertAlmostEqual(got.values.loss, 0.0)
    self.assertAlmostEqual(got.values.cost, 1.0)

  def test_uninformative_observations_have_no_value(self):
    # One level of confidence: the optimum is a mixture of fixed sequences.
    process = process_lib.uninformative(process_lib.Process())
    tree = tree_lib.build(process, protocols.Protocol('switch'))
    fixed = np.asarray(
        [
            tree_lib.evaluate(tree, _fixed_actions(tree, actions))
            for actions in itertools.product(range(2), repeat=process.num_steps)
        ]
    )
    got = optimum.solve(tree, 0.5).values.correct
    self.assertAlmostEqual(got, best_mixture(fixed, 0.5, 'budget'), places=8)
    informed = tree_lib.build(
        process_lib.Process(), protocols.Protocol('switch')
    )
    self.assertGreater(optimum.solve(informed, 0.5).values.correct, got + 0.01)

  @parameterized.named_parameters(*PROTOCOLS)
  def test_mix_has_the_values_of_the_random_draw(self, protocol):
    tree = tree_lib.build(process_lib.Process(num_steps=3), protocol)
    policies = [simulation_test.random_policy(tree, seed) for seed in range(3)]
    weights = np.array([0.5, 0.3, 0.2])
    mixed = optimum.mix(tree, policies, weights)
    expected = weights @ [tree_lib.evaluate(tree, x) for x in policies]
    np.testing.assert_allclose(tree_lib.evaluate(tree, mixed), expected)

  def test_refuses(self):
    tree = tree_lib.build(process_lib.Process(), protocols.Protocol('switch'))
    with self.assertRaisesRegex(ValueError, 'No policy has budget level 0.1'):
      optimum.solve(tree, 0.1)
    with self.assertRaisesRegex(ValueError, "Unknown form 'regret'"):
      optimum.solve(tree, 0.5, form='regret')


class RandomTest(parameterized.TestCase):

  @parameterized.named_parameters(*PROTOCOLS)
  def test_at_least_a_random_draw_per_question_and_per_step(self, protocol):
    tree = tree_lib.build(process_lib.Process(num_steps=3), protocol)
    value = lambda rate: tree_lib.evaluate(
        tree, tree_lib.constant(tree, (1.0 - rate, rate))
    )
    never, half, always = value(0.0), value(0.5), value(1.0)
    draw = (never.cost + always.cost) / 2, (never.correct + always.correct) / 2
    for cost, correct in (draw, (half.cost, half.correct)):
      got = optimum.random_accuracy(tree, cost, num_rates=11)
      self.assertGreaterEqual(got, correct - 1e-12)
      self.assertLess(got, optimum.solve(tree, cost).values.correct)

  def test_by_hand(self):
    # One step, right with 0.5 for 0.2 or with 0.9 for 1: a straight line.
    process = process_lib.Process(
        num_steps=1,
        start=(1.0,),
        moves=((1.0,),),
        right=((0.5,), (0.9,)),
        repair=(0.0, 0.0),
        confidence=(((1.0,), (1.0,)),),
        prices=(0.2, 1.0),
    )
    tree = tree_lib.build(process, protocols.Protocol('switch'))
    got = optimum.random_accuracy(tree, np.array([0.1, 0.2, 0.6, 1.0, 3.0]))
    np.testing.assert_allclose(got, [-np.inf, 0.5, 0.7, 0.9, 0.9])


if __name__ == '__main__':
  absltest.main()
