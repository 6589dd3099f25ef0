"""Which operating point answers, and decisions without an answer."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized
import openai

from routing import types
from routing.rollout import driver
from routing.rollout import step_requests
from tests import router_server
from tests import scripted_pair

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
      # The most accurate within the cost. None is promised: as measured.
      ('router', {'max_cost': 0.9}, 'loss<=0.02@0.9'),
      ('router', {'max_cost': 0.5}, 'cost<=0.5'),
      ('router', {'max_cost': 0.4}, 'cost<=0.3'),
      ('router', {'max_cost': 0.9, 'max_loss': 0.1}, 'loss<=0.05@0.9'),
      ('router', {'point': 'loss<=0.3@0.9'}, 'loss<=0.3@0.9'),
  )
  def test_the_point_that_answers(self, model, routing, expected):
    answer = self.ask(model=model, extra_body={'routing': routing})
    self.assertEqual(answer.model, f'router@{expected}')
    self.assertEqual(answer.routing['promise']['point'], expected)

  def test_no_promise_holds_that_was_not_made(self):
    promise = self.ask(model='router@cost<=0.5').routing['promise']
    self.assertFalse(promise['holds'])
    self.assertIn('without a promise', promise['why_not'])
    model = 'router@loss<=0.05@0.9'
    promise = self.ask(model=model).routing['promise']
    self.assertEqual((promise['holds'], promise['why_not']), (True, None))
    # As where the models are others than in calibration.
    self.service.unpromised['loss<=0.05@0.9'] = 'Others.'
    self.addCleanup(self.service.unpromised.clear)
    promise = self.ask(model=model).routing['promise']
    self.assertEqual((promise['holds'], promise['why_not']), (False, 'Others.'))
    self.assertFalse(promise['is_promised'])
    listed = self.openai.models.retrieve(model)
    self.assertFalse(listed.routing['is_promised'])

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
      for name in ('loss<=0.05@0.9', 'cost<=0.5'):
        self.assertIn(name, error['message'])

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


class MemoryTest(router_server.ServedCase):
  """A router that remembers sees the drafts that were discarded."""

  def given(self, step):
    return dict(
        text=step.text,
        model=(_SMALL, _LARGE)[step.route],
        tokens=step.num_tokens,
        log_probs=step.log_probs.tolist(),
        top_log_probs=step.top_log_probs.tolist(),
    )

  def body(self, trace):
    """Returns the request for the decision at a trace."""
    *earlier, last = [
        dict(draft=self.given(x.draft), spent=x.spent) for x in trace.history
    ]
    return {
        'model': 'router@cost<=0.5',
        'question': trace.question,
        'steps': list(map(self.given, trace.steps)),
        'earlier': earlier,
        **last,
    }

  @parameterized.parameters('gru', 'attention')
  def test_each_decision_of_an_answer(self, kind):
    router = router_server.make_router(kind=kind, process='redraft')
    at_point, seen = router.at('cost<=0.5'), []

    class Alternating:
      """Discards every second draft, and keeps what it has seen."""

      def decide(self, trace):
        seen.append(trace)
        return types.Decision(len(trace.steps) % 2, 0.5)

    problem = types.Problem('p', _MIXED, '')
    asyncio.run(
        driver.answer(
            problem,
            Alternating(),
            scripted_pair.make_engines(2),
            protocol=router.card.protocol,
            accounting=router.card.accounting,
            grade=None,
            seed=0,
            sampling=step_requests.Sampling(),
        )
    )
    self.assertLen(seen, 6)
    _, client = self.serve(
        lambda: router_server.scripted_service(router=router)
    )
    for trace in seen:
      body = self.body(trace)
      answer = client.post('/v1/decision', json=body)
      self.assertEqual(answer.status_code, 200, answer.text)
      wanted = at_point.decide(trace)
      self.assertEqual(answer.json()['score'], wanted.score)
      self.assertEqual(answer.json()['route'], wanted.route)
    # The draft at the second decision was discarded, and is remembered.
    discarded = body['earlier'][1]['draft']
    self.assertEqual(discarded['model'], _SMALL)
    self.assertEqual(body['steps'][1]['model'], _LARGE)
    discarded['log_probs'] = [-3.0] * discarded['tokens']
    other = client.post('/v1/decision', json=body).json()
    self.assertNotEqual(other['score'], wanted.score)
    # Without its memory it cannot decide.
    for earlier in ([], body['earlier'][1:]):
      refused = client.post('/v1/decision', json=body | {'earlier': earlier})
      self.assertEqual(refused.status_code, 400)
      self.assertEqual(refused.json()['error']['param'], 'earlier')
    body['earlier'][1]['draft'] = None
    refused = client.post('/v1/decision', json=body).json()['error']
    self.assertEqual(refused['param'], 'earlier[1].draft')

  def test_a_router_without_memory_may_be_given_the_same(self):
    _, client = self.serve()
    draft = dict(text='13\n\n', model=_SMALL, tokens=4)
    body = dict(model='router', question=_MIXED, steps=[draft], draft=draft)
    alone = client.post('/v1/decision', json=body).json()
    again = body | {'earlier': [{'draft': draft}]}
    self.assertEqual(client.post('/v1/decision', json=again).json(), alone)


if __name__ == '__main__':
  absltest.main()
