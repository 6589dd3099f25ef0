"""Which operating point answers, and decisions without an answer."""

from absl.testing import absltest
from absl.testing import parameterized
import openai

from tests import router_server

_SMALL, _LARGE = router_server.SMALL, router_server.LARGE
_MIXED = router_server.QUESTION


class PointsTest(router_server.SharedCase):

  def test_the_list_of_models(self):
    names = [model.id for model in self.openai.models.list()]
    self.assertEqual(
        names,
        [
            'router',
            *(f'router@{x.name}' for x in self.service.router.points),
            _SMALL,
            _LARGE,
        ],
    )
    found = self.openai.models.retrieve('router@loss<=0.05@0.9')
    self.assertIn('loss <= 0.05 with probability 0.9', found.routing['promise'])
    self.assertTrue(found.routing['is_promised'])
    found = self.openai.models.retrieve('router@cost<=0.5')
    self.assertFalse(found.routing['is_promised'])

  @parameterized.parameters(
      ('router', {}, 'loss<=0.02@0.9'),
      ('router@loss<=0.05', {}, 'loss<=0.05@0.9'),
      # The cheapest of those that promise at most this loss.
      ('router', {'max_loss': 0.06}, 'loss<=0.05@0.9'),
      ('router', {'max_loss': 0.05}, 'loss<=0.05@0.9'),
      ('router', {'max_loss': 0.04}, 'loss<=0.02@0.9'),
      ('router', {'max_loss': 1.0}, 'loss<=0.05@0.9'),
      # The most accurate within the cost.
      ('router', {'max_cost': 0.9}, 'cost<=0.5'),
      ('router', {'max_cost': 0.4}, 'cost<=0.3'),
      ('router', {'point': 'loss<=0.3@0.9'}, 'loss<=0.3@0.9'),
  )
  def test_the_point_that_answers(self, model, routing, expected):
    answer = self.ask(model=model, extra_body={'routing': routing})
    self.assertEqual(answer.model, f'router@{expected}')
    self.assertEqual(answer.routing['promise']['point'], expected)

  @parameterized.parameters(
      ({'max_loss': 0.01}, 'routing.max_loss'),
      ({'max_cost': 0.2}, 'routing.max_cost'),
      ({'point': 'loss'}, 'routing.point'),
      ({'max_cost': 0.5, 'max_loss': 0.05}, 'routing.max_cost'),
      ({'max_cost': 0.5, 'point': 'cost<=0.5'}, 'routing'),
  )
  def test_what_no_point_fulfils_is_refused_with_a_list(self, routing, param):
    response = self.post(model='router', routing=routing)
    self.assertEqual(response.status_code, 400)
    error = response.json()['error']
    self.assertEqual(error['param'], param)
    if param != 'routing':
      self.assertIn('loss<=0.05@0.9', error['message'])

  def test_limits_go_with_the_router_only(self):
    response = self.post(routing={'max_loss': 0.5})
    self.assertEqual(response.json()['error']['param'], 'routing')

  @parameterized.parameters('gpt', 'router@', 'router@loss', 'router@cost<=0')
  def test_an_unknown_model_is_refused_with_a_list(self, model):
    with self.assertRaisesRegex(openai.NotFoundError, r'router@cost<=0\.5'):
      self.ask(model=model)


class DecisionTest(router_server.SharedCase):

  def test_a_decision_is_that_of_the_answer(self):
    wanted = self.ask().routing['steps']
    draft = dict(text='13\n\n', model=_SMALL, tokens=4, log_probs=[-0.5] * 4)
    draft['top_log_probs'] = [[-0.5, -1.5]] * 4
    second = draft | {'text': '14\n\n'}  # What the small model writes next.
    body = {'model': 'router@cost<=0.5', 'question': _MIXED}
    for steps, shown, writer in (
        ([], draft, _SMALL),
        ([draft], second, _LARGE),
    ):
      answer = self.http.post(
          '/v1/decision', json=body | {'steps': steps, 'draft': shown}
      ).json()
      self.assertEqual(answer['score'], wanted[len(steps)]['score'])
      self.assertEqual(answer['threshold'], 0.6)
      self.assertEqual(answer['writer'], writer)
      self.assertEqual(answer['route'], [_SMALL, _LARGE].index(writer))

  @parameterized.parameters(
      (dict(model=_SMALL), 'model'),
      (dict(draft=None), 'draft'),
      (dict(steps=[dict(text='1', model='x', tokens=1)]), 'steps[0].model'),
      (
          dict(draft=dict(text='1', model=_SMALL, tokens=2, log_probs=[-1])),
          'draft.log_probs',
      ),
      (dict(steps=[dict(text='1', model=_SMALL, tokens=1)] * 9), 'steps'),
  )
  def test_a_trace_that_cannot_be_is_refused(self, fields, param):
    draft = dict(text='1', model=_SMALL, tokens=1)
    body = {'model': 'router', 'question': _MIXED, 'draft': draft} | fields
    response = self.http.post('/v1/decision', json=body)
    self.assertEqual(response.status_code, 400, response.text)
    self.assertEqual(response.json()['error']['param'], param)


if __name__ == '__main__':
  absltest.main()
