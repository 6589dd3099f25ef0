"""Limits in a request are kept by promises that hold, over HTTP."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized

from tests import router_server

# Name, accuracy and cost that calibration has measured, and promises.
_MORE = (
    ('cost<=0.6@0.9', 0.72, 0.55, ('cost', 0.6, 0.1)),
    ('cost<=0.4@0.9', 0.65, 0.35, ('cost', 0.4, 0.1)),
    (
        *('loss<=0.04&cost<=0.8@0.9', 0.85, 0.75),
        *(('loss', 0.04, 0.05), ('cost', 0.8, 0.05)),
    ),
    # Tested for one group, or for the loss alone.
    ('loss<=0.01@0.9(a)', 0.95, 0.2, ('loss', 0.01, 0.1)),
    (
        *('loss<=0.2@0.9&cost<=0.6', 0.7, 0.65),
        *(('loss', 0.2, 0.1), ('cost', 0.6, None)),
    ),
)


def make_router():
  """Returns a router with more points, at which the small model writes all."""
  router, points = router_server.make_router((2.0, 2.0, 2.0)), []
  for name, accuracy, cost, *promised in _MORE:
    first, *also = [
        dict(what=what, level=level, delta=delta)
        for what, level, delta in promised
    ]
    promise = first | dict(
        also=also, n=100, measured=dict(accuracy=accuracy, cost=cost)
    )
    if name.endswith('(a)'):
      promise['group'] = 'a'
    points.append(
        dataclasses.replace(router.points[0], name=name, promise=promise)
    )
  router.points += tuple(points)
  return router


class LimitsTest(router_server.ServedCase):

  def setUp(self):
    super().setUp()
    self.running, self.client = self.serve(
        lambda: router_server.scripted_service(
            make_router(), alarm_delta=0.4, large_errors=0.0
        )
    )

  def ask(self, routing, **fields):
    body = router_server.body(model='router', routing=routing, **fields)
    return self.client.post(router_server.CHAT, json=body)

  def assert_answers(self, point, routing, **fields):
    answer = self.ask(routing, **fields)
    self.assertEqual(answer.status_code, 200, answer.text)
    promise = answer.json()['routing']['promise']
    self.assertEqual(promise['point'], point)
    self.assertTrue(promise['holds'], promise)

  def assert_refused(self, routing, *words, **fields):
    answer = self.ask(routing, **fields)
    self.assertEqual(answer.status_code, 400, answer.text)
    error = answer.json()['error']
    self.assertEqual(error['code'], 'no_operating_point')
    self.assertEqual(error['param'], f'routing.{next(iter(routing))}')
    for word in words:
      self.assertIn(word, error['message'])

  @parameterized.parameters(
      # Within a cost that is promised the most accurate.
      ({'max_cost': 0.9}, 'loss<=0.04&cost<=0.8@0.9'),
      ({'max_cost': 0.6}, 'cost<=0.6@0.9'),
      ({'max_cost': 0.5}, 'cost<=0.4@0.9'),  # Not the budget 'cost<=0.5'.
      # Within a loss the cheapest.
      ({'max_loss': 0.3}, 'loss<=0.2@0.9&cost<=0.6'),
      ({'max_loss': 0.05}, 'loss<=0.05@0.9'),
      ({'max_cost': 0.8, 'max_loss': 0.05}, 'loss<=0.04&cost<=0.8@0.9'),
      # No such point promises its cost; this one was measured within it.
      ({'max_cost': 0.7, 'max_loss': 0.05}, 'loss<=0.05@0.9'),
  )
  def test_a_promise_keeps_the_limit(self, routing, point):
    self.assert_answers(point, routing)

  def test_a_budget_where_no_cost_is_promised(self):
    answer = self.ask({'max_cost': 0.3}).json()
    promise = answer['routing']['promise']
    # Not the point that is for one group only, of a cost of .2.
    self.assertEqual(promise['point'], 'cost<=0.3')
    self.assertFalse(promise['holds'])

  @parameterized.parameters(
      {'max_cost': 0.05},
      {'max_loss': 0.01},  # Promised for one group only.
      {'max_cost': 0.6, 'max_loss': 0.05},
  )
  def test_what_nothing_fulfils_is_refused_with_a_list(self, **routing):
    names = [x.name for x in self.running.service.router.points]
    self.assertLen(names, 10)
    self.assert_refused(routing, f'there are: {", ".join(names)}.')

  def test_a_point_whose_promise_is_void_is_not_chosen(self):
    unpromised = self.running.service.unpromised
    unpromised['loss<=0.05@0.9'] = 'Other prompts.'
    self.assert_answers('loss<=0.04&cost<=0.8@0.9', {'max_loss': 0.05})
    unpromised['loss<=0.04&cost<=0.8@0.9'] = 'Other prompts.'
    self.assert_answers('loss<=0.02@0.9', {'max_loss': 0.05})
    unpromised['loss<=0.02@0.9'] = 'Other models.'
    self.assert_refused(
        {'max_loss': 0.03}, 'loss <= 0.03', 'loss<=0.02@0.9: Other models.'
    )
    # By its name it answers, and says that nothing is promised.
    answer = self.ask({'point': 'loss<=0.02@0.9'}).json()
    promise = answer['routing']['promise']
    self.assertEqual(
        (promise['holds'], promise['why_not']), (False, 'Other models.')
    )

  def test_a_point_whose_alarm_was_raised_is_not_chosen(self):
    for _ in range(40):
      answer = self.ask({'point': 'loss<=0.05@0.9'}).json()['routing']
      if not answer['promise']['holds']:
        break
      given = {'id': answer['id'], 'correct': False}
      self.client.post('/v1/feedback', json=given)
    self.assertIn('alarm', answer['promise']['why_not'])
    self.assert_answers('loss<=0.04&cost<=0.8@0.9', {'max_loss': 0.05})

  @parameterized.parameters(
      (dict(temperature=0.7), 'temperature'),
      (dict(max_tokens=6), 'limit of tokens'),
      (dict(max_completion_tokens=6), 'limit of tokens'),
  )
  def test_no_promise_holds_for_answers_written_otherwise(self, fields, word):
    self.assert_refused({'max_loss': 0.05}, word, **fields)
    # A budget is no promise, and the answer says so.
    answer = self.ask({'max_cost': 0.4}, **fields).json()['routing']
    self.assertFalse(answer['promise']['holds'])

  def test_what_changes_nothing_leaves_the_promise(self):
    fields = dict(temperature=0, max_tokens=9_999)
    self.assert_answers('loss<=0.05@0.9', {'max_loss': 0.05}, **fields)

  def test_a_decision_is_that_of_the_same_point(self):
    draft = dict(text='13\n\n', model=router_server.SMALL, tokens=4)
    body = dict(model='router', question='12:5\n', draft=draft)
    found = self.client.post(
        '/v1/decision', json=body | {'routing': {'max_loss': 0.05}}
    )
    self.assertEqual(found.json()['model'], 'router@loss<=0.05@0.9')
    found = self.client.post(
        '/v1/decision', json=body | {'routing': {'max_cost': 0.05}}
    )
    self.assertEqual(found.status_code, 400)


if __name__ == '__main__':
  absltest.main()
