"""Tests of the protocol masks."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols


class ProtocolTest(parameterized.TestCase):

  def test_escalate_never_goes_back_down(self):
    protocol = protocols.Protocol('escalate', 'peek')
    np.testing.assert_array_equal(protocol.action_mask(0, 3), [1, 1, 1])
    np.testing.assert_array_equal(protocol.action_mask(1, 3), [0, 1, 1])
    self.assertFalse(protocol.is_absorbing(0))
    self.assertTrue(protocol.is_absorbing(1))

  @parameterized.parameters(('peek', True), ('commit', False))
  def test_only_peek_pays_a_draft(self, view, expected):
    self.assertEqual(protocols.Protocol('escalate', view).has_draft, expected)

  @parameterized.parameters(('shuffle', 'peek'), ('escalate', 'glance'))
  def test_unknown_names_are_refused_with_the_allowed(self, name, view):
    with self.assertRaisesRegex(ValueError, 'allowed: '):
      protocols.Protocol(name, view)


if __name__ == '__main__':
  absltest.main()
