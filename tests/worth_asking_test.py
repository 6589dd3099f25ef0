"""Tests that only knobs are asked about that a curve or a budget can show."""

import dataclasses
import pathlib
from unittest import mock

from absl.testing import absltest
import numpy as np

from experiments import compare
from routing.evaluation import entries
from routing.evaluation import harness
from routing.evaluation import metrics
from routing.evaluation import style
from routing.evaluation import worth_asking
from routing.routers import registry
from routing.routers import router
from tests import small_arena


class _LiveOnly:
  """A family of whole answers that records do not replay."""

  def __init__(self, family, knobs):
    self.fingerprint, self.at, self.knobs = family.fingerprint, family.at, knobs


class WorthAskingTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.arena = small_arena.make()
    base = registry.load('FrugalGPT')
    (family,) = harness.fit(base, self.arena, base.settings[0], 0)
    # At 0 every answer of the small model is accepted; at 2 and 3 none is, so
    # that both models are paid.
    self.family = _LiveOnly(family, (0.0, 2.0, 3.0))
    self.method = dataclasses.replace(base, fit=lambda *_, **__: [self.family])

  def _asked(self, split):
    """Returns the number of knobs that are asked."""
    knobs = np.array(self.family.knobs)
    found = harness.outcomes(
        self.method, self.family, knobs, self.arena, split, 0
    )
    return len(found.correct)

  def test_only_what_select_does_not_rule_out_is_tested(self):
    zero = np.zeros((6, 1))
    found = entries.Outcomes(
        np.array([[0.0], [0.1], [0.5], [0.4], [0.9], [1.0]]),
        *(zero, zero, zero),
        {'price': np.array([[0.1], [0.2], [0.3], [0.35], [1.4], [3.0]])},
    )
    worth = lambda *budgets: worth_asking.worth_testing(
        found, {'price': budgets}
    ).tolist()
    # The line from .1 to .3 passes above the second point; the fourth costs
    # more than the third and is right less often. The fifth ends what curves
    # show.
    self.assertEqual(worth(), [0, 2, 4])
    # For a budget one knob is chosen, on the hull or not.
    self.assertEqual(worth(0.25, 0.4), [0, 1, 2, 4])

  def test_curves_and_budgets_are_those_of_all_knobs(self):
    rng = np.random.default_rng(0)
    for _ in range(20):
      cost = rng.uniform(0.1, 1.2, (12, 1))
      correct = np.clip(cost + rng.normal(0, 0.3, (12, 1)), 0, 1)
      zero = np.zeros_like(cost)
      found = entries.Outcomes(correct, zero, zero, zero, {'price': cost})
      kept = worth_asking.worth_testing(found, {'price': metrics.BUDGETS})
      entry, short = (
          entries.Entry(0, {}, [], [], x, x, 0.0)
          for x in (found, found.take(kept))
      )
      before, after = (x.candidates('price', True) for x in (entry, short))
      np.testing.assert_array_equal(before.points().cost, after.points().cost)
      for budget in metrics.BUDGETS:
        np.testing.assert_array_equal(
            before.at_budget(budget).cost, after.at_budget(budget).cost
        )

  def test_no_dearer_knob_is_asked_than_a_curve_shows(self):
    self.assertEqual(self._asked('select'), 3)
    with mock.patch.object(style, 'MAX_COST', 1.01):
      self.assertEqual(self._asked('select'), 2)
      # What is tested was chosen on `select`.
      self.assertEqual(self._asked('test'), 3)
      (entry,) = compare.evaluate_seeds('', self.method, self.arena, [0], 1)
    self.assertNotIn((0, 3.0), entry.knobs)

  def test_answers_that_are_kept_say_where_to_stop(self):
    folder = self.create_tempdir().full_path
    self.arena = small_arena.make(folder=pathlib.Path(folder))
    with mock.patch.object(style, 'MAX_COST', 1.01):
      self.assertEqual(self._asked('select'), 2)
      engines = mock.Mock(side_effect=AssertionError('A model is asked.'))
      self.arena = dataclasses.replace(
          self.arena,
          answering=lambda seed: small_arena.answering(seed, engines),
      )
      self.assertEqual(self._asked('select'), 2)

  def test_a_method_whose_hull_is_another_method_is_asked_all(self):
    self.method = dataclasses.replace(self.method, forms_hull=False)
    with mock.patch.object(style, 'MAX_COST', 1.01):
      self.assertEqual(self._asked('select'), 3)

  def test_methods_of_one_rule_share_their_answers(self):
    folder = self.create_tempdir()
    self.arena = small_arena.make(folder=pathlib.Path(folder.full_path))
    files = lambda: len(list(pathlib.Path(folder.full_path).iterdir()))
    counts = []
    for is_shared in (False, True):
      self.family.is_shared = is_shared
      for name in ('FrugalGPT', 'AutoMix'):
        # The code of a method is found by its function `fit`.
        self.method = dataclasses.replace(
            registry.load(name), needs=router.Needs(None)
        )
        self._asked('test')
        counts.append(files())
    first, second, shared, again = (x - counts[0] for x in counts)
    self.assertEqual((first, second, shared, again), (0, 3, 6, 6))


if __name__ == '__main__':
  absltest.main()
