"""Tests of the table of several runs."""

from absl.testing import absltest

from experiments.studies import protocol_table


def _method(area, cost, accuracy):
  return {
      'area': {'mean': area, 'low': area - 0.01, 'high': area + 0.01},
      'curve': {
          'cost': cost,
          'accuracy': accuracy,
          'low': [x - 0.02 for x in accuracy],
          'high': [x + 0.02 for x in accuracy],
      },
  }


def _results(estimator, area, protocol='redraft', view='', **methods):
  return {
      'cost_metric': 'price',
      'config': {
          'protocol': {'name': protocol, 'view': view},
          'objective': {'estimator': estimator, 'policy_update': 'lagrangian'},
          'network': {'kind': 'mlp', 'hidden': [64]},
          'features': {'groups': ['confidence', 'text']},
      },
      'num_problems': {'train': 6_000, 'test': 200},
      'seeds': [0, 1, 2],
      'tuning': {},
      'cost_metrics': {
          'price': {
              'methods': {
                  'policy': _method(area, [0.3, 0.7], [0.5, 0.9]),
                  'confidence': _method(0.6, [0.1, 1.1], [0.4, 0.9]),
                  **methods,
              }
          }
      },
  }


class ProtocolTableTest(absltest.TestCase):

  def test_rows_in_the_order_of_the_runs(self):
    runs = [
        _results('vtrace', 0.7),
        _results('exact', 0.65, 'switch'),
        _results('exact', 0.8),
    ]
    lines = protocol_table.table(runs).splitlines()
    heads = [line.split(' | ')[:2] for line in lines[2:]]
    self.assertEqual(
        heads,
        [
            ['| redraft', 'vtrace, lagrangian'],
            ['| redraft', 'exact'],
            ['| redraft', 'confidence threshold'],
            ['| switch', 'exact'],
            ['| switch', 'confidence threshold'],
        ],
    )
    self.assertIn(
        'mlp 64 | confidence, text | 6,000 | 200, 3 | .700 [', lines[2]
    )

  def test_accuracy_at_a_budget_by_hand(self):
    row = protocol_table.policy_row(_results('exact', 0.8))
    # Cheapest at .3; at .4 a quarter of the way from .5 to .9.
    self.assertEqual(row[7:10], ['-', '.600 [.580, .620]', '.800 [.780, .820]'])

  def test_the_method_is_named(self):
    results = _results('exact', 0.8)
    results['config']['objective']['form'] = 'reliability'
    results['config']['soft_threshold'] = {'is_used': True}
    self.assertEqual(
        protocol_table.policy_row(results)[1],
        'exact, reliability, behind kappa',
    )

  def test_learners_stand_beside_the_policy(self):
    area = lambda x: _method(x, [0.3, 0.7], [0.5, 0.9])
    known = {'boosting': area(0.75), 'fitted Q, linear': area(0.7)}
    results = _results('exact', 0.8, 'escalate', 'peek', **known)
    # On select the linear one was better, whatever the test problems say.
    results['tuning'] = {
        'boosting': {'areas': [0.6, 0.65]},
        'fitted Q, linear': {'areas': [0.71, None]},
        'fitted Q, trees': {'areas': [None]},
    }
    difference = {'mean': 0.1, 'low': 0.05, 'high': 0.15}
    results['cost_metrics']['price']['differences'] = {
        'fitted Q, linear': difference
    }
    self.assertEqual(
        protocol_table.policy_row(results)[-4:],
        [
            '-',
            '.700 [.690, .710]',
            '.750 [.740, .760]',
            '+.100 [+.050, +.150] (fitted Q, linear)',
        ],
    )
    names = [row[:2] for row in protocol_table.other_rows(results)]
    self.assertEqual(names, [['escalate, peek', 'confidence threshold']])
    self.assertEqual(protocol_table.policy_row(_results('exact', 0.8))[-1], '-')


if __name__ == '__main__':
  absltest.main()
