"""The costs at which tables report, for cheap and for dear small models."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.evaluation import budgets
from routing.evaluation import markdown
from routing.evaluation import metrics
from routing.evaluation import tables
from tests import results_test


class BudgetsTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.13, (0.2, 0.4, 0.6)),
      (0.4, (0.2, 0.4, 0.6)),
      (0.6, (0.7, 0.8, 0.9)),
      (0.5, (0.625, 0.75, 0.875)),
      # Nothing lies between the models.
      (0.97, (0.2, 0.4, 0.6)),
      (1.2, (0.2, 0.4, 0.6)),
      (np.nan, (0.2, 0.4, 0.6)),
  )
  def test_by_hand(self, small_cost, expected):
    np.testing.assert_allclose(budgets.within(small_cost), expected)

  def test_names_of_columns(self):
    columns = ('method', 'acc @.2', 'loss @.4', '[95 %]')
    self.assertEqual(
        budgets.header({'budgets': [0.7, 0.8, 0.9]}, columns),
        ['method', 'acc @.7', 'loss @.8', '[95 %]'],
    )
    self.assertEqual(budgets.header({}, columns), list(columns))

  def test_tables_report_at_the_budgets_of_the_results(self):
    content, candidates = results_test.make_results(60, 5, (0.7, 0.8, 0.9))
    page = tables.markdown(content)
    self.assertIn('| acc @.7 | acc @.8 | acc @.9 |', page)
    self.assertNotIn('@.4', page)
    row = dict(
        zip(tables.COLUMNS, tables.rows(content, 'price')[0], strict=True)
    )
    points = [x.points() for x in candidates['policy']]
    mean = np.mean(
        [metrics.accuracy_at(x.mean_cost, x.accuracy, [0.7])[0] for x in points]
    )
    self.assertEqual(row['acc @.2'], f'{mean:.3f}'[1:])
    picked = [x.at_budget(0.8) for x in candidates['policy']]
    cost = np.mean([x.mean_cost[0] for x in picked])
    self.assertEqual(row['cost @.4'], markdown.number(float(cost)))


if __name__ == '__main__':
  absltest.main()
