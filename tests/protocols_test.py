"""Tests of the action masks and the views of the protocols."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import protocols


class ProtocolTest(parameterized.TestCase):

  def test_escalate_never_returns_to_a_smaller_model(self):
    protocol = protocols.Protocol('escalate', 'peek')
    np.testing.assert_array_equal(protocol.action_mask(0, 3), [1, 1, 1])
    np.testing.assert_array_equal(protocol.action_mask(1, 3), [0, 1, 1])
    self.assertFalse(protocol.is_absorbing(0))
    self.assertTrue(protocol.is_absorbing(1))

  @parameterized.parameters('switch', 'redraft')
  def test_any_model_may_follow_any_other(self, name):
    protocol = protocols.Protocol(name)
    for writer in range(3):
      np.testing.assert_array_equal(protocol.action_mask(writer, 3), [1, 1, 1])
      self.assertFalse(protocol.is_absorbing(writer))

  def test_a_batch_of_writers_gives_the_mask_of_each(self):
    writers = np.array([0, 0, 2, 1])
    for name in protocols.NAMES:
      protocol = protocols.Protocol(name)
      np.testing.assert_array_equal(
          protocol.action_mask(writers, 3),
          [protocol.action_mask(int(writer), 3) for writer in writers],
      )

  @parameterized.parameters(
      ('escalate', 'peek', True),
      ('escalate', 'commit', False),
      ('switch', 'commit', False),
      ('redraft', 'peek', True),
  )
  def test_only_peek_has_a_draft(self, name, view, expected):
    self.assertEqual(protocols.Protocol(name, view).has_draft, expected)

  @parameterized.parameters(
      ('escalate', 'peek'), ('switch', 'commit'), ('redraft', 'peek')
  )
  def test_each_protocol_has_a_default_view(self, name, view):
    self.assertEqual(protocols.Protocol(name), protocols.Protocol(name, view))

  @parameterized.parameters(
      ('shuffle', 'peek', 'escalate, switch, redraft'),
      ('escalate', 'glance', 'escalate .* allowed: peek, commit'),
      ('switch', 'peek', 'switch .* allowed: commit'),
      ('redraft', 'commit', 'redraft .* allowed: peek'),
  )
  def test_unknown_names_and_views_raise_an_error_with_the_allowed(
      self, name, view, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      protocols.Protocol(name, view)


if __name__ == '__main__':
  absltest.main()
