"""Tests of the simulated process: exact values against plain enumeration."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from routing import protocols
from routing.simulation import histories
from routing.simulation import history_tree as tree_lib
from routing.simulation import kernels
from routing.simulation import process as process_lib

TINY = process_lib.Process(
    num_steps=2,
    start=(0.6, 0.4),
    moves=((0.7, 0.3), (0.2, 0.8)),
    right=((0.9, 0.3), (0.95, 0.8)),
    repair=(0.1, 0.4),
    confidence=(((0.2, 0.8), (0.7, 0.3)), ((0.4, 0.6), (0.9, 0.1))),
    prices=(0.2, 1.0),
)
TINY_OF_THREE = process_lib.Process(
    num_steps=2,
    start=(0.6, 0.4),
    moves=((0.7, 0.3), (0.2, 0.8)),
    right=((0.9, 0.3), (0.9, 0.5), (0.95, 0.8)),
    repair=(0.1, 0.2, 0.4),
    confidence=(((0.2, 0.8), (0.7, 0.3)), ((0.4, 0.6), (0.9, 0.1))),
    prices=(0.2, 0.4, 1.0),
)
PROTOCOLS = (
    protocols.Protocol('escalate', 'peek'),
    protocols.Protocol('escalate', 'commit'),
    protocols.Protocol('switch'),
    protocols.Protocol('redraft'),
)
ALL = tuple(
    dict(testcase_name=f'{p.name}_{p.view}', protocol=p) for p in PROTOCOLS
)


def random_policy(tree, seed=0):
  """Returns a policy with random probabilities at each history."""
  rng = np.random.default_rng(seed)
  return [
      rng.dirichlet(np.ones(tree.process.num_routes), len(level.chance))
      for level in tree.levels
  ]


def step_draws(process, difficulty):
  """Enumerates the random draws of a step.

  Yields:
    (per route whether it writes right after a right and after a wrong trace,
    probability of that).
  """
  options = []
  for probabilities, repair in zip(process.right, process.repair, strict=True):
    right = probabilities[difficulty]
    # One uniform draw per step and route, split at both probabilities.
    cuts = sorted([0.0, right, repair, 1.0])
    options.append(
        [
            ((low < right, low < repair), high - low)
            for low, high in itertools.pairwise(cuts)
        ]
    )
  for choice in itertools.product(*options):
    yield [ok for ok, _ in choice], np.prod([p for _, p in choice])


class Play:
  """Values by enumeration of all events, one after another.

  No matrices and no filter: the difficulty, each route's draw and each step's
  confidence are enumerated in the order in which they occur.
  """

  def __init__(self, process, protocol, decide):
    """A history is a tuple of actions and levels in their order.

    Args:
      process, protocol: the rules.
      decide: history -> `[A]` probabilities.
    """
    self.process, self.protocol, self.decide = process, protocol, decide
    self.total = np.zeros(3)

  def values(self) -> tree_lib.Values:
    self.total[:] = 0.0
    for difficulty, p in enumerate(self.process.start):
      self._step((0, difficulty), (), (False, False, 0.0), p, 0)
    accuracy, cost, loss = self.total
    all_large = self.process.num_steps * self.process.prices[-1]
    return tree_lib.Values(accuracy, cost / all_large, loss)

  def _confidences(self, difficulty, is_wrong):
    return enumerate(self.process.confidence[difficulty][int(is_wrong)])

  def _step(self, state, history, so_far, chance, writer):
    """Adds the next step; so_far: (is wrong, reference is wrong, cost)."""
    difficulty = state[1]
    wrong, reference_wrong, cost = so_far
    for noise, p in step_draws(self.process, difficulty):
      end = [not ok[int(wrong)] for ok in noise]
      rest = not noise[-1][int(reference_wrong)], cost
      if writer:
        after = end[writer], rest[0], cost + self.process.prices[writer]
        self._after(state, (), after, chance * p, writer)
      elif self.protocol.has_draft:
        for seen, q in self._confidences(difficulty, end[0]):
          self._ask(state, history + (seen,), end, rest, chance * p * q)
      else:
        self._ask(state, history, end, rest, chance * p)

  def _ask(self, state, history, end, rest, chance):
    """Adds every action; end: per action, whether it leaves a wrong trace."""
    reference_wrong, cost = rest
    drafts = self.protocol.has_draft
    for a, r in enumerate(self.decide(history)):
      spent = self.process.prices[a]
      if drafts and a > 0:
        spent += self.process.prices[0]
      after, here = (end[a], reference_wrong, cost + spent), chance * r
      if self.protocol.name == 'escalate' and a > 0:
        self._after(state, (), after, here, a)
      elif drafts and a == 0:
        self._after(state, history + (a,), after, here, 0)
      else:
        for seen, s in self._confidences(state[1], end[a]):
          self._after(state, history + (a, seen), after, here * s, 0)

  def _after(self, state, history, so_far, chance, writer):
    step, difficulty = state
    if step == self.process.num_steps - 1:
      wrong, reference_wrong, cost = so_far
      self.total += chance * np.array(
          [not wrong, cost, wrong and not reference_wrong]
      )
      return
    for harder, p in enumerate(self.process.moves[difficulty]):
      state = step + 1, harder
      self._step(state, history, so_far, chance * p, writer)


def decode_tokens(tree):
  """Returns the histories per level, as tuples that `Play` uses."""
  process, protocol = tree.process, tree.protocol
  size = process.num_levels
  spelled = []
  for t, level in enumerate(tree.levels):
    rows = []
    for n, (parent, action) in enumerate(
        zip(level.parent, level.action, strict=True)
    ):
      if t == 0:
        rows.append((n,) if protocol.has_draft else ())
        continue
      seen = n - int(tree.levels[t - 1].begins[parent, action])
      before = spelled[-1][parent] + (int(action),)
      is_both = protocol.has_draft and action > 0
      rows.append(before + (divmod(seen, size) if is_both else (seen,)))
    spelled.append(rows)
  return spelled


class ProcessTest(parameterized.TestCase):

  @parameterized.parameters(
      (dict(num_steps=0), 'num_steps is 0; it must be at least 1'),
      (dict(repair=(0.1,)), r'repair has shape \(1,\); it must be \(2,\)'),
      (dict(start=(0.5, 0.4, 0.2)), r'start is \(0.5, .*must sum to 1'),
      (
          dict(start=(1.5, -0.5, 0.0)),
          r'start has .*must be in \[0, 1\]',
      ),
      (dict(prices=(0.1, 0.0)), 'prices are'),
  )
  def test_refuses(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      process_lib.Process(**fields)

  @parameterized.parameters(
      # A step of the small model costs 0.1, one of the large 0.5.
      ('escalate', 'peek', [[0.1 + 0.1, 0.1 + 1.0], [0.0, 0.5]]),
      ('escalate', 'commit', [[0.1, 1.0], [0.1, 0.5]]),
      ('switch', None, [[0.1, 0.5], [0.1, 0.5]]),
      ('redraft', None, [[0.1 + 0.1, 0.1 + 0.5 + 0.1], [0.0, 0.5]]),
  )
  def test_costs_by_hand(self, name, view, expected):
    costs = process_lib.action_costs(TINY, protocols.Protocol(name, view))
    np.testing.assert_allclose(costs, expected)


class TreeTest(parameterized.TestCase):

  @parameterized.named_parameters(*ALL)
  def test_probabilities_sum_to_one_after_any_actions(self, protocol):
    tree = tree_lib.build(process_lib.Process(), protocol)
    self.assertAlmostEqual(tree.levels[0].chance.sum(), 1.0)
    for before, after in itertools.pairwise(tree.levels):
      sums = np.zeros(before.begins.shape)
      np.add.at(sums, (after.parent, after.action), after.chance)
      expected = np.where(before.begins >= 0, before.chance[:, None], 0.0)
      np.testing.assert_allclose(sums, expected, atol=1e-15)

  @parameterized.product(
      protocol=PROTOCOLS, process=(TINY, TINY_OF_THREE), seed=(0, 1)
  )
  def test_values_equal_plain_enumeration(self, protocol, process, seed):
    tree = tree_lib.build(process, protocol)
    policy = random_policy(tree, seed)
    probabilities = {}
    for names, table in zip(decode_tokens(tree), policy, strict=True):
      probabilities.update(zip(names, table, strict=True))
    expected = Play(process, protocol, probabilities.__getitem__).values()
    np.testing.assert_allclose(
        tree_lib.evaluate(tree, policy), expected, rtol=1e-12
    )

  @parameterized.named_parameters(*ALL)
  def test_the_largest_alone_has_no_relative_loss(self, protocol):
    tree = tree_lib.build(process_lib.three_routes(), protocol)
    values = tree_lib.evaluate(tree, tree_lib.constant(tree, (0, 0, 1)))
    self.assertAlmostEqual(values.loss, 0.0, places=15)
    small = 0.1 if protocol.name == 'redraft' else 0.1 / 4
    drafts = small if protocol.has_draft else 0.0
    self.assertAlmostEqual(values.cost, 1.0 + drafts)

  def test_belief_by_hand(self):
    # One difficulty, peek: a draft is right with 0.8; right ones have level
    # low (0) with 0.25, wrong ones with 0.75.
    #   P(low) = 0.8 * 0.25 + 0.2 * 0.75 = 0.35, P(wrong | low) = 0.15 / 0.35.
    process = process_lib.Process(
        num_steps=1,
        start=(1.0,),
        moves=((1.0,),),
        right=((0.8,), (0.9,)),
        repair=(0.0, 0.0),
        confidence=(((0.25, 0.75), (0.75, 0.25)),),
    )
    protocol = protocols.Protocol('redraft')
    tree = tree_lib.build(process, protocol)
    np.testing.assert_allclose(tree.levels[0].chance, [0.35, 0.65])
    uncertainty = histories.uncertainty_weights(process, protocol)
    np.testing.assert_allclose(
        tree.levels[0].features @ uncertainty,
        [0.15 / 0.35, 0.05 / 0.65],
        rtol=1e-6,
    )
    # Rewritten if low, kept if high: 0.35 * 0.9 + 0.65 * (0.6 / 0.65) right.
    policy = tree_lib.thresholded(
        tree, [tree.levels[0].features @ uncertainty], kappa=0.2
    )
    np.testing.assert_array_equal(policy[0], [[0, 1], [1, 0]])
    values = tree_lib.evaluate(tree, policy)
    self.assertAlmostEqual(values.correct, 0.35 * 0.9 + 0.6)
    self.assertAlmostEqual(values.cost, 0.15 + 0.35)
    # Loss: kept and wrong (0.05), while the largest is right (0.9).
    self.assertAlmostEqual(values.loss, 0.05 * 0.9)

  @parameterized.named_parameters(*ALL)
  def test_uncertainty_is_the_probability_of_a_wrong_trace(self, protocol):
    # If the small model writes the last step: with a draft the answer is wrong
    # with exactly this probability; without one, the last step matters too.
    process = process_lib.Process(num_steps=3)
    tree = tree_lib.build(process, protocol)
    last = tree.levels[-1]
    uncertainty = last.features @ histories.uncertainty_weights(
        process, protocol
    )
    right = last.gains[:, 0, 0] / last.chance
    if protocol.has_draft:
      np.testing.assert_allclose(1.0 - uncertainty, right, atol=1e-6)
    else:
      self.assertGreater(np.corrcoef(1.0 - uncertainty, right)[0, 1], 0.9)

  @parameterized.named_parameters(*ALL)
  def test_signals_distinguish_histories(self, protocol):
    tree = tree_lib.build(
        process_lib.three_routes(num_steps=3), protocol, 'signals'
    )
    for t, level in enumerate(tree.levels):
      rows = tree_lib.histories(tree, t).reshape(len(level.chance), -1)
      self.assertLen(np.unique(rows, axis=0), len(rows))
      # The signal of spending equals the cost of the actions.
      costs = process_lib.action_costs(tree.process, protocol)
      for n in range(0, len(rows), 7):
        path, where = [], n
        for above in reversed(tree.levels[1 : t + 1]):
          path.append(above.action[where])
          where = above.parent[where]
        paid = sum(costs[s, a] for s, a in enumerate(reversed(path)))
        self.assertAlmostEqual(level.features[n, 2], paid, places=6)

  @parameterized.named_parameters(*ALL)
  def test_reach_probabilities_sum_to_that_of_a_decision(self, protocol):
    tree = tree_lib.build(process_lib.Process(num_steps=3), protocol)
    policy = tree_lib.constant(tree, (0.7, 0.3))
    sums = [x.sum() for x in tree_lib.reached(tree, policy)]
    is_asked_again = 0.7 if protocol.name == 'escalate' else 1.0
    np.testing.assert_allclose(sums, is_asked_again ** np.arange(3))

  def test_refuses_other_features_and_large_trees(self):
    protocol = protocols.Protocol('redraft')
    with self.assertRaisesRegex(ValueError, "Unknown features 'truth'"):
      tree_lib.build(TINY, protocol, 'truth')
    with self.assertRaisesRegex(ValueError, 'histories in 9 steps; at most'):
      tree_lib.build(process_lib.Process(num_steps=9), protocol)

  def test_refuses_a_policy_of_another_tree(self):
    tree = tree_lib.build(TINY, protocols.Protocol('switch'))
    with self.assertRaisesRegex(ValueError, r'at step 1 has shape \(1, 2\)'):
      tree_lib.evaluate(tree, [np.ones((1, 2)) / 2] * 2)

  def test_is_a_pytree_with_static_process_and_protocol(self):
    tree = tree_lib.build(TINY, protocols.Protocol('switch'))
    double = jax.tree.map(lambda x: 2 * x, tree)
    self.assertEqual(double.process, TINY)
    np.testing.assert_allclose(double.levels[1].chance.sum(), 4.0)


class KernelsTest(parameterized.TestCase):

  @parameterized.product(protocol=PROTOCOLS, process=(TINY, TINY_OF_THREE))
  def test_rows_are_distributions(self, protocol, process):
    got = kernels.make_kernels(process, protocol)
    self.assertAlmostEqual(got.initial.sum(), 1.0)
    for step in got.steps:
      np.testing.assert_allclose(step.sum(axis=(1, 2)), 1.0)
    ends = got.ends[~np.isnan(got.ends)]
    self.assertTrue(((ends >= 0) & (ends <= 1)).all())


if __name__ == '__main__':
  absltest.main()
