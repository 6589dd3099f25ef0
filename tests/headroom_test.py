"""Tests that scores of cross-fitted learners come from other problems."""

from absl.testing import absltest
import numpy as np

from experiments.studies import headroom
from routing import costs
from routing import protocols
from routing.evaluation import methods
from routing.features import observation
from routing.outcomes import records
from routing.tasks import splits
from tests import scripted_pair

_SPECS = scripted_pair.SPECS[:2]
_FEATURES = observation.FeatureConfig(
    num_routes=2, groups=('progress',), max_decisions=8, hidden_size=0
)


class _Memory:
  """Scores a decision by its number; twice that if it was fitted on it."""

  fingerprint = ''

  def __init__(self, table):
    self._seen = set(table.decisions.features[:, 0].tolist())

  def score(self, decisions):
    numbers = decisions.features[:, 0].astype(float)
    is_seen = np.array([x in self._seen for x in numbers.tolist()])
    return numbers * (1 + is_seen), np.ones(len(numbers), np.int32)


def _folds():
  """Returns folds whose decisions are numbered from 1 in the first feature."""
  ladders = scripted_pair.make_ladders(4 * 25, num_routes=2)
  protocol = protocols.Protocol('escalate', 'peek')
  accounting = costs.Accounting(_SPECS, 'price', 1.0)
  tables, problems, number = {}, {}, 0
  for k, split in enumerate(splits.SPLITS):
    mine = ladders[k::4]
    dealt = [mine[i :: headroom.FOLDS] for i in range(headroom.FOLDS)]
    problems[split] = [x.problem for part in dealt for x in part]
    tables[split] = []
    for part in dealt:
      table = records.ladder_table(part, _FEATURES, accounting, protocol)
      rows = table.decisions.features
      rows[:, 0] = np.arange(number + 1, number + 1 + len(rows))
      number += len(rows)
      tables[split].append(table)
  return headroom.Folds(tables, problems)


class CrossFittedTest(absltest.TestCase):

  def test_no_score_is_of_a_fit_that_saw_the_problem(self):
    folds, fitted_on = _folds(), []
    pair = methods.Pair(folds.source('select'), folds.source('test'))

    def fit(table):
      fitted_on.append(table.num_problems)
      return [_Memory(table)]

    (family,) = headroom.cross_fitted(fit, folds, pair, lambda: None)
    self.assertEqual(fitted_on, [88] * 5 + [92] * 5)
    for source in (pair.select, pair.test):
      decisions = source.table.decisions
      scores, routes = family.score(decisions)
      np.testing.assert_array_equal(scores, decisions.features[:, 0])
      np.testing.assert_array_equal(routes, 1)
    # What has seen all problems is another family.
    everything = folds.without(None)
    self.assertEqual(everything.num_problems, 100)
    decisions = pair.test.table.decisions
    np.testing.assert_array_equal(
        _Memory(everything).score(decisions)[0], 2 * decisions.features[:, 0]
    )


if __name__ == '__main__':
  absltest.main()
