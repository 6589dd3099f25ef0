"""Tests that reply trees and outcome tables agree with the live driver."""

import asyncio
import dataclasses
import functools
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.features import observation
from routing.grading import equivalence
from routing.outcomes import known
from routing.outcomes import records as records_lib
from routing.outcomes import sources
from routing.outcomes import table as table_lib
from routing.rollout import all_replies
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import trees
from routing.routers import behaviour
from routing.routers import boosting
from routing.routers import fixed
from routing.shards import reply_shards
from tests import scripted_pair

_SAMPLING = step_requests.Sampling(max_decisions=8, max_tokens=100)
_FEATURES = observation.FeatureConfig(
    ('confidence', 'progress', 'cost', 'hidden'), 2, 8, hidden_size=4
)
_ACCOUNTING = costs.Accounting(scripted_pair.SPECS[:2], reference=1e-4)


def make_replies(count, num_routes=2, **kwargs):
  got = {}
  asyncio.run(
      all_replies.collect_replies(
          scripted_pair.make_problems(count),
          scripted_pair.make_engines(num_routes),
          got.__setitem__,
          concurrency=4,
          **{'sampling': _SAMPLING, **kwargs},
      )
  )
  return [got[i] for i in range(count)]


def make_grower(name):
  return trees.TreeBuilder(
      protocols.Protocol(name),
      _SAMPLING,
      equivalence.exact,
  )


def make_table(name, count, num_routes=2, features=_FEATURES, accounting=None):
  """The outcome table of the scripted pair."""
  grower = make_grower(name)
  accounting = accounting or dataclasses.replace(
      _ACCOUNTING, specs=scripted_pair.SPECS[:num_routes]
  )
  features = dataclasses.replace(features, num_routes=num_routes)
  records = make_replies(count, num_routes)
  return records_lib.tree_table(
      map(grower.build, records), features, accounting
  )


def _answer(problem, router, name, num_routes=2, sampling=_SAMPLING):
  return asyncio.run(
      driver.answer(
          problem,
          router,
          scripted_pair.make_engines(num_routes),
          protocol=protocols.Protocol(name),
          accounting=dataclasses.replace(
              _ACCOUNTING, specs=scripted_pair.SPECS[:num_routes]
          ),
          grade=equivalence.exact,
          seed=0,
          sampling=sampling,
      )
  )


@dataclasses.dataclass
class _Watched:
  """A router that records the traces and the routes that it named."""

  router: driver.Router
  seen: list = dataclasses.field(default_factory=list)
  named: list = dataclasses.field(default_factory=list)

  def decide(self, trace):
    decision = self.router.decide(trace)
    self.seen.append(observation.observe(trace, _FEATURES))
    self.named.append(decision.route)
    return decision


class TreeTest(parameterized.TestCase):
  """Each path through a reply tree is a trajectory of the driver."""

  @parameterized.parameters(*itertools.product(('switch', 'redraft'), (2, 3)))
  def test_every_leaf_equals_a_live_trajectory(self, name, num_routes):
    draw = behaviour.random_rate(num_routes, seed=3)
    for record in make_replies(10, num_routes):
      tree = make_grower(name).build(record)
      for index in range(6):
        got = _answer(
            record.problem, draw(record.problem, index), name, num_routes
        )
        place = tree.root
        for t, decision in enumerate(got.decisions):
          self.assertEqual(
              [s.text for s in place.steps], [s.text for s in got.steps[:t]]
          )
          place = place.branches[decision.route]
        self.assertIsInstance(place, trees.Leaf)
        self.assertEqual(place.calls, got.calls)
        self.assertEqual(place.is_correct, got.is_correct)

  @parameterized.product(
      name=('switch', 'redraft'), num_routes=(2, 3), max_decisions=(1, 2)
  )
  def test_after_the_last_decision_the_writer_continues_to_the_end(
      self, name, num_routes, max_decisions
  ):
    sampling = dataclasses.replace(_SAMPLING, max_decisions=max_decisions)
    draw = behaviour.random_rate(num_routes, seed=3)
    for record in make_replies(8, num_routes, sampling=sampling):
      grower = dataclasses.replace(make_grower(name), sampling=sampling)
      tree = grower.build(record)
      for index in range(4):
        got = _answer(
            record.problem,
            draw(record.problem, index),
            name,
            num_routes,
            sampling,
        )
        place = tree.root
        for decision in got.decisions:
          place = place.branches[decision.route]
        self.assertIsInstance(place, trees.Leaf)
        self.assertEqual(place.calls, got.calls)
        self.assertEqual(place.is_correct, got.is_correct)
        self.assertTrue(got.steps[-1].is_final)
        self.assertLessEqual(len(got.decisions), max_decisions)

  def test_the_reference_equals_that_of_rollouts(self):
    rollouts = scripted_pair.make_rollouts(10, num_routes=2)
    for record, rollout in zip(make_replies(10), rollouts, strict=True):
      tree = make_grower('redraft').build(record)
      self.assertEqual(tree.reference, rollout.reference)

  def test_nodes_double_with_each_step(self):
    tree = make_grower('switch').build(
        make_replies(3)[2]
    )  # 3 steps and the answer.
    self.assertLen(list(trees.nodes(tree)), 2**4 - 1)

  def test_a_missing_reply_raises_an_error_that_names_the_problem(self):
    record = make_replies(3)[2]
    longest = max(record.replies, key=lambda x: len(x.trace))
    record = dataclasses.replace(
        record, replies=tuple(x for x in record.replies if x is not longest)
    )
    with self.assertRaisesRegex(ValueError, 'count/2.* is not known'):
      make_grower('switch').build(record)

  def test_the_limit_of_replies(self):
    few, all_of_them = make_replies(3, max_replies=2)[2], make_replies(3)[2]
    self.assertLess(len(few.replies), len(all_of_them.replies))
    self.assertContainsSubset(
        [(x.trace, x.step.text) for x in few.replies],
        [(x.trace, x.step.text) for x in all_of_them.replies],
    )

  def test_escalate_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, 'escalate'):
      make_grower('escalate')

  def test_a_positive_temperature_raises_an_error(self):
    with self.assertRaisesRegex(ValueError, 'temperature is 0.5'):
      make_replies(1, sampling=step_requests.Sampling(temperature=0.5))

  def test_nan_log_probabilities_raise_an_error(self):
    tree = make_grower('redraft').build(make_replies(1)[0])
    draft = tree.root.draft
    no_number = np.full_like(draft.log_probs, np.nan)
    root = dataclasses.replace(
        tree.root, draft=dataclasses.replace(draft, log_probs=no_number)
    )
    features = observation.FeatureConfig(('progress',), 2, 8)
    with self.assertRaisesRegex(ValueError, 'count/0: step 0: .* not finite'):
      records_lib.tree_table(
          [dataclasses.replace(tree, root=root)], features, _ACCOUNTING
      )

  def test_replies_come_back_from_disk(self):
    records = make_replies(10)
    directory = self.create_tempdir().full_path
    writer = reply_shards.ReplyWriter(
        directory, [x.problem for x in records], {}, 4
    )
    for index in reversed(range(2, 10)):  # The first block stays incomplete.
      writer.add(index, records[index])
    found = list(reply_shards.read(directory))
    self.assertEqual(
        scripted_pair.plain(tuple(found)),
        scripted_pair.plain(tuple(records[2:])),
    )


class WalksTest(parameterized.TestCase):
  """Look-ups agree with live answers."""

  @parameterized.parameters('switch', 'redraft')
  def test_a_random_router(self, name):
    table = make_table(name, 12)
    problems = scripted_pair.make_problems(12)
    router = fixed.RandomRouter(0.4, seed=5)
    scores = np.zeros(len(table.decisions.depth))
    for n, problem in enumerate(problems):
      watched = _Watched(router)
      got = _answer(problem, watched, name)
      place = table.roots[n]
      for seen, named in zip(watched.seen, watched.named, strict=True):
        np.testing.assert_array_equal(table.decisions.features[place], seen)
        scores[place] = named
        place = table.children[place, named]
      self.assertLess(place, 0)
      cost = costs.total_cost(got.calls, _ACCOUNTING.specs, 'price')
      walked = known.at_thresholds(table, scores, np.array([0.5]), 'price')
      self.assertEqual(walked.correct[0, n], got.is_correct)
      reference = make_grower(name).build(make_replies(12)[n]).reference
      self.assertAlmostEqual(
          walked.cost[0, n],
          cost
          / costs.completion_cost(reference, _ACCOUNTING.specs, 'price'),
      )  # fmt: skip

  @parameterized.parameters('switch', 'redraft')
  def test_expectations_are_means_over_leaves(self, name):
    table = make_table(name, 8, num_routes=3)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), len(table.decisions.depth))
    got = known.expected(table, probabilities, 'price')
    want = np.zeros(8)

    def descend(place, chance, n):
      if place < 0:
        want[n] += chance * table.ending_correct[-1 - place]
        return
      for route in range(3):
        descend(
            table.children[place, route],
            chance * probabilities[place, route],
            n,
        )

    for n, root in enumerate(table.roots):
      descend(root, 1.0, n)
    np.testing.assert_allclose(got.correct[0], want, rtol=1e-12)

  def test_ends_agree(self):
    table = make_table('redraft', 10)
    scores = np.zeros(len(table.decisions.depth))
    walked = known.at_thresholds(table, scores, np.array([1.0, 0.0]), 'flops')
    rated = known.at_rates(table, [0.0, 1.0], 'flops')
    np.testing.assert_allclose(walked.cost, rated.cost)
    np.testing.assert_allclose(walked.correct, rated.correct)

  def test_the_oracle_is_above_all_leaves(self):
    table = make_table('switch', 10)
    best = known.oracle(table, [0.0, 1.0], 'price')
    leaves = np.maximum.reduceat(
        table.ending_correct,
        np.searchsorted(table.ending_problem, np.arange(10)),
    )
    np.testing.assert_array_equal(best.correct[0], leaves)
    utility = table.ending_correct - table.ending_cost['price']
    for n in range(10):
      self.assertAlmostEqual(
          best.correct[1, n] - best.cost[1, n],
          utility[table.ending_problem == n].max(),
      )

  def test_paths_lead_from_the_root(self):
    table = make_table('switch', 5)
    path = table.decisions.path()
    for row, depth in enumerate(table.decisions.depth):
      self.assertEqual(path[row, depth], row)
      self.assertTrue((path[row, depth + 1 :] == -1).all())
      for t in range(depth):
        self.assertIn(path[row, t + 1], table.children[path[row, t]])
      self.assertIn(path[row, 0], table.roots)

  def test_shapes_are_checked(self):
    table = make_table('switch', 2)
    with self.assertRaisesRegex(ValueError, 'one per decision'):
      known.at_thresholds(table, np.zeros(3), np.zeros(1), 'price')
    with self.assertRaisesRegex(ValueError, 'Action probabilities must have'):
      known.expected(table, np.ones((3, 2)), 'price')
    with self.assertRaisesRegex(ValueError, 'has 0 problems'):
      records_lib.tree_table([], _FEATURES, _ACCOUNTING)


class BoostingTest(parameterized.TestCase):
  """The supervised learners see what rewriting changes."""

  def test_mended_by_hand(self):
    # One problem: the root leads to an ending, or to a second decision.
    builder = table_lib.TableBuilder(['price'])
    builder.begin_problem(1.0)
    root = builder.add_decision(np.zeros(1), 0.0, 2)
    builder.add_ending((root, 1), 0.0, 1.0, [1.0])
    second = builder.add_decision(np.zeros(1), 0.0, 2, (root, 0))
    builder.add_ending((second, 0), 0.0, 1.0, [1.0])
    builder.add_ending((second, 1), 1.0, 0.0, [1.0])
    # At the root the large route ends wrong; at the second it mends.
    np.testing.assert_array_equal(
        boosting.is_fixed_by_handover(builder.table()), [False, True]
    )

  def test_the_effect_is_learnt(self):
    rng = np.random.default_rng(0)
    size = 4_000
    features = rng.normal(size=(size, 1, 2)).astype(np.float32)
    actions = rng.integers(0, 2, (size, 1)).astype(np.int32)
    needs = features[:, 0, 0] > 0
    batch = types.TrajectoryBatch(
        features=features,
        mask=np.ones((size, 1), bool),
        available=np.ones((size, 1, 2), bool),
        actions=actions,
        behaviour=np.full((size, 1), 0.5, np.float32),
        costs=np.zeros((size, 1), np.float32),
        correct=(~needs | (actions[:, 0] > 0)).astype(np.float32),
        loss=np.zeros(size, np.float32),
        gain=np.zeros(size, np.float32),
    )
    features_of = observation.FeatureConfig(('progress',), 2, 8)
    fit = functools.partial(
        boosting.fit,
        metric='price',
        features=features_of,
        setting=boosting.SETTINGS[0],
        seed=0,
    )
    source = sources.Recorded(
        batch, {}, np.zeros((size, 1)), np.arange(size), np.zeros(size), ()
    )
    (family,) = fit(source)
    zeros = np.zeros(2, np.int32)
    score, _ = family.score(
        table_lib.Decisions(
            np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32),
            zeros,
            zeros,
            zeros - 1,
        )
    )
    self.assertGreater(score[0], 0.6)
    self.assertLess(abs(score[1]), 0.1)
    never = dataclasses.replace(batch, actions=np.zeros_like(actions))
    with self.assertRaisesRegex(ValueError, 'route 1'):
      fit(dataclasses.replace(source, batch=never))

  def test_boosting_prefers_what_is_mended(self):
    table = make_table('redraft', 40)
    (family,) = boosting.fit(
        table,
        metric='price',
        features=_FEATURES,
        setting=boosting.SETTINGS[5],
        seed=0,
    )
    scores, _ = family.score(table.decisions)
    is_fixed_by_handover = boosting.is_fixed_by_handover(table)
    self.assertGreater(
        scores[is_fixed_by_handover].mean(),
        scores[~is_fixed_by_handover].mean(),
    )


if __name__ == '__main__':
  absltest.main()
