"""A drift alarm over the restarts of a service, and what the log says of it."""

import contextlib
import io
import json
import pathlib

from absl.testing import absltest

from tests import router_server

_POINT = 'loss<=0.02@0.9'


class AlarmTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    folder = pathlib.Path(self.create_tempdir().full_path)
    self.path = folder / 'state.sqlite'
    self.log = io.StringIO()
    self.enter_context(router_server.logged_to(self.log))

  @contextlib.contextmanager
  def served(self):
    """Serves with the state so far; yields the service and a client."""
    make = lambda: router_server.scripted_service(
        router_server.make_router((2.0, 2.0, 2.0)),  # Small alone.
        path=self.path,
        large_errors=0.0,
        alarm_delta=0.4,
    )
    with router_server.running(make) as running, running.client() as client:
      yield running.service, client

  def lose(self, client):
    """Asks once, and says that the answer was wrong; returns the promise."""
    body = router_server.body(model=f'router@{_POINT}')
    routing = client.post(router_server.CHAT, json=body).json()['routing']
    given = {'id': routing['id'], 'correct': False}
    client.post('/v1/feedback', json=given)
    return routing['promise']

  def said(self):
    """Returns the lines of the log about alarms, without their times."""
    lines = map(json.loads, self.log.getvalue().splitlines())
    names = ('level', 'event', 'point')
    return [
        {name: line[name] for name in names}
        for line in lines
        if line['event'] == 'drift_alarm'
    ]

  def test_an_alarm_is_raised_and_logged_once_whatever_restarts(self):
    count = 0
    with self.served() as (service, client):
      while not service.feedback.alarms()[_POINT]:
        self.lose(client)
        count += 1
    self.assertGreater(count, 1)
    alarm = dict(level='ERROR', event='drift_alarm', point=_POINT)
    self.assertEqual(self.said(), [alarm])

    def raised(client):
      return router_server.metric(client, 'routing_drift_alarm', point=_POINT)

    # It is known from the start, and not raised again.
    with self.served() as (service, client):
      self.assertTrue(service.feedback.alarms()[_POINT])
      self.assertEqual(raised(client), 1)
      promise = self.lose(client)
      self.assertFalse(promise['holds'])
      self.assertIn('alarm', promise['why_not'])
    self.assertEqual(self.said(), [alarm])
    # With a restart after each loss, it takes as many of them.
    self.path.unlink()
    for index in range(count):
      with self.served() as (service, client):
        self.assertEqual(raised(client), 0)
        self.lose(client)
        is_raised = service.feedback.alarms()[_POINT]
        self.assertEqual(is_raised, index == count - 1)
    self.assertEqual(self.said(), [alarm, alarm])


if __name__ == '__main__':
  absltest.main()
