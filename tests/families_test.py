"""Tests that scores of a family in a table equal those of its routers."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols
from routing import types
from routing.features import traces
from routing.outcomes import records
from routing.outcomes import table as table_lib
from routing.rollout import trees
from routing.routers import families
from routing.routers import learned
from routing.routers import learners
from tests import scripted_pair
from tests import sources_test
from tests import trees_test

_NUM_PROBLEMS = 5  # Up to 5 steps, and so 243 paths of 3 routes.
_NUM_ROUTES = sources_test.NUM_ROUTES
_ACCOUNTING = sources_test.ACCOUNTING
_FEATURES = sources_test.FEATURES
_RULES = ('uncertainty', 'fixed step')
_FITTED = ('mlp', 'gru', 'scored')


@functools.cache
def _seen(name):
  """Returns a protocol's outcome table, and a live trace per decision."""
  if name == 'escalate':
    protocol = protocols.Protocol(name)
    ladders = scripted_pair.make_ladders(_NUM_PROBLEMS)
    table = records.ladder_table(ladders, _FEATURES, _ACCOUNTING, protocol)
    found = [
        traces.of_ladder(ladder, step, _ACCOUNTING, protocol)
        for ladder in ladders
        for step in range(len(ladder.steps))
    ]
  else:
    grower = trees_test.make_grower(name)
    grown = [
        grower.build(x)
        for x in trees_test.make_replies(_NUM_PROBLEMS, _NUM_ROUTES)
    ]
    table = records.tree_table(grown, _FEATURES, _ACCOUNTING)
    found = [
        types.Trace(
            tree.problem.question,
            node.steps,
            node.draft,
            _ACCOUNTING.spent(node.calls),
        )
        for tree in grown
        for node in trees.nodes(tree)
    ]
  linked = []
  for trace, parent in zip(found, table.decisions.parents, strict=True):
    previous = linked[parent] if parent >= 0 else None
    linked.append(
        types.Trace(
            trace.question, trace.steps, trace.draft, trace.spent, previous
        )
    )
  return table, linked


def _settings(score, route, threshold):
  return int(route) if score >= threshold else 0


class DecisionsTest(parameterized.TestCase):

  @parameterized.product(name=sources_test.PROTOCOLS, kind=_RULES)
  def test_live_rules_decide_as_their_scores(self, name, kind):
    table, shown = _seen(name)
    family = sources_test.FAMILIES[kind](name)
    scores, routes = family.score(table.decisions)
    met = np.unique(scores)
    for kappa in (-np.inf, *met, *np.nextafter(met, np.inf), np.inf):
      router = family.at(float(kappa))
      got = [router.decide(trace).route for trace in shown]
      wanted = [
          _settings(s, r, kappa) for s, r in zip(scores, routes, strict=True)
      ]
      self.assertEqual(got, wanted, kappa)

  @parameterized.product(name=sources_test.PROTOCOLS, kind=_FITTED)
  def test_fitted_routers_decide_as_their_scores(self, name, kind):
    table, shown = _seen(name)
    family = sources_test.FAMILIES[kind](name)
    scores, routes = family.score(table.decisions)
    self.assertGreater(scores.std(), 0.01)
    for trace, score, route in zip(shown, scores, routes, strict=True):
      live = family.at(np.inf).decide(trace)
      self.assertEqual(live.route, 0)
      # One row and many add up in another order: the last digits differ.
      np.testing.assert_allclose(live.score, score, rtol=1e-4, atol=1e-6)
      above = float(np.nextafter(live.score, np.inf))
      for kappa in (-np.inf, live.score, above):
        decision = family.at(kappa).decide(trace)
        self.assertEqual(decision.score, live.score)
        self.assertEqual(decision.route, _settings(live.score, route, kappa))


class MemoryTest(parameterized.TestCase):

  @parameterized.parameters('switch', 'redraft')
  def test_scores_follow_the_path(self, name):
    table, _ = _seen(name)
    family = sources_test.make_policy(name, 'gru')
    router = family.at(0.5)
    scores, routes = family.score(table.decisions)
    features, parents = table.decisions.features, table.decisions.parents
    alone = []
    for row, (score, route) in enumerate(zip(scores, routes, strict=True)):
      path, place = [], row
      while place >= 0:
        path.insert(0, features[place])
        place = parents[place]
      probabilities = router.probabilities(np.stack(path))[-1]
      self.assertAlmostEqual(probabilities[1:].sum(), score, delta=1e-5)
      self.assertEqual(1 + probabilities[1:].argmax(), route)
      alone.append(router.probabilities(features[row][None])[0, 1:].sum())
    first = parents < 0
    np.testing.assert_allclose(scores[first], np.array(alone)[first], atol=1e-5)
    # It would not be noticed if memory made no difference.
    self.assertGreater(np.abs(scores - alone)[~first].max(), 0.01)

  def test_scores_do_not_depend_on_other_problems(self):
    # The second table adds shorter and longer paths to those of the first.
    all_of_them, _ = _seen('redraft')
    grower = trees_test.make_grower('redraft')
    tree = grower.build(trees_test.make_replies(2, _NUM_ROUTES)[1])
    table = records.tree_table([tree], _FEATURES, _ACCOUNTING)
    family = sources_test.make_policy('redraft', 'gru')
    scores, _ = family.score(table.decisions)
    rows = all_of_them.problem == 1
    np.testing.assert_allclose(
        family.score(all_of_them.decisions)[0][rows], scores, atol=1e-5
    )


class FingerprintTest(parameterized.TestCase):

  def test_of_policies(self):
    family = sources_test.make_policy('switch', 'mlp')
    router = family.at(0.3)
    first, second = families.policies(router)
    self.assertEqual(second.fingerprint, family.fingerprint)
    self.assertNotEqual(first.fingerprint, second.fingerprint)
    directory = self.create_tempdir().full_path
    router.save(directory)
    _, again = families.policies(learned.load(directory))
    self.assertEqual(again.fingerprint, second.fingerprint)
    other = sources_test.make_policy('switch', 'mlp', seed=1)
    self.assertNotEqual(other.fingerprint, second.fingerprint)

  @parameterized.parameters(*learners.LEARNERS)
  def test_of_fits(self, name):
    learner = learners.LEARNERS[name]
    first = dict(learner.settings[0])
    if 'num_iterations' in first:
      first['num_iterations'] = 3
    other = {key: value * 2 for key, value in first.items()}
    tables = [
        trees_test.make_table(
            'redraft', count, _NUM_ROUTES, _FEATURES, _ACCOUNTING
        )
        for count in (4, 4, 5)
    ]

    def fingerprint(table, setting, is_used=False):
      family = learner.fit(
          table,
          metric='price',
          features=_FEATURES,
          setting=setting,
          seed=0,
      )[0]
      if is_used:
        family.score(table.decisions)
      return family.fingerprint

    wanted = fingerprint(tables[0], first)
    self.assertEqual(fingerprint(tables[1], first), wanted)
    self.assertEqual(fingerprint(tables[1], first, is_used=True), wanted)
    self.assertNotEqual(fingerprint(tables[2], first), wanted)
    self.assertNotEqual(fingerprint(tables[0], other), wanted)

  def test_of_routes(self):
    for make in (families.Uncertainty, families.FixedStep):
      self.assertEqual(make(1).fingerprint, make(1).fingerprint)
      self.assertNotEqual(make(1).fingerprint, make(2).fingerprint)
    scored = [
        families.Scored(sources_test.Line(), _FEATURES, route)
        for route in (1, 2)
    ]
    self.assertNotEqual(scored[0].fingerprint, scored[1].fingerprint)


class ScoredTest(absltest.TestCase):

  def test_a_scorer_without_routes_uses_the_given_route(self):

    class First:

      def score(self, features):
        return features[:, 0]

    rows = np.arange(3, dtype=np.float32)[:, None]
    zeros = np.zeros(3, np.int32)
    decisions = table_lib.Decisions(rows, zeros, zeros, zeros - 1)
    scores, routes = families.Scored(First(), _FEATURES, 2).score(decisions)
    np.testing.assert_array_equal(scores, [0, 1, 2])
    np.testing.assert_array_equal(routes, [2, 2, 2])


if __name__ == '__main__':
  absltest.main()
