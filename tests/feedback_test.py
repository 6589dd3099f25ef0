"""Feedback in service: the online threshold, the drift alarms, restarts."""

import asyncio
import dataclasses
import pathlib
import uuid

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing.calibration import drift
from routing.grading import equivalence
from routing.serving import feedback as feedback_lib
from routing.serving import points as points_lib
from routing.serving import refusals
from routing.serving import settings as settings_lib
from routing.serving import store as store_lib
from tests import router_server

_POINT = 'loss<=0.05@0.9'


class LossTest(parameterized.TestCase):
  """What is counted of one answer."""

  def setUp(self):
    super().setUp()
    self.losses = []

  def take(self, given, settings=None, **kept):
    """Returns the response to feedback on an answer, and the feedback."""
    store = store_lib.Store(None)
    made = feedback_lib.Feedback(
        router_server.make_router(),
        settings_lib.Settings(**(settings or {})),
        store,
        equivalence.exact,
        on_loss=lambda model, loss: self.losses.append(loss),
    )
    shadow = kept.pop('shadow', None)
    store.add_answer(
        'a',
        **{
            'owner': 'me',
            'model': f'router@{_POINT}',
            'text': '1\n\n#### 7',
            'is_all_large': False,
            'is_shadowed': shadow is not None,
            **kept,
        },
    )
    if shadow is not None:
      store.add_shadow('a', shadow)
    return asyncio.run(made.take('a', 'me', **given)), made

  @parameterized.parameters(
      (dict(correct=True), {}, 0.0, True),
      (dict(correct=False), {}, 1.0, False),  # The large may be wrong, too.
      (dict(correct=False), dict(is_all_large=True), 0.0, True),
      (dict(answer='7'), {}, 0.0, True),
      (dict(answer='8'), {}, 1.0, False),
      # With the largest model's answer at hand.
      (dict(correct=False), dict(shadow='2\n\n#### 7'), 0.0, True),
      (dict(correct=False), dict(shadow='#### 8'), 1.0, False),
      (dict(answer='8'), dict(shadow='#### 8'), 1.0, True),
      (dict(answer='9'), dict(shadow='#### 8'), 0.0, True),
      (dict(correct=False), dict(shadow='no answer'), 1.0, False),
  )
  def test_the_loss(self, given, kept, loss, is_known):
    found, _ = self.take(given, **kept)
    self.assertEqual((found['loss'], found['is_loss_known']), (loss, is_known))

  @parameterized.parameters(
      ({}, {}, 1),
      # With shadows only what was chosen for one counts, right or wrong.
      (dict(shadow_share=0.5), {}, 0),
      (dict(shadow_share=0.5), dict(shadow='#### 8'), 1),
      ({}, dict(model='router@cost<=0.5'), 0),
      ({}, dict(model='small'), 0),
  )
  def test_which_answers_an_alarm_counts(self, settings, kept, expected):
    _, made = self.take(dict(correct=True), settings, **kept)
    counts = {name: int(x.count) for name, (_, x) in made._alarms.items()}
    self.assertEqual(counts.pop(_POINT), expected)
    self.assertEqual(set(counts.values()), {0})

  @parameterized.parameters(
      # Not known: .05 of answers may be lost, .05 wrong by both models.
      (dict(correct=False), dict(is_shadowed=True), 0.5),
      (dict(answer='8'), dict(is_shadowed=True), 0.5),
      (dict(correct=False), dict(shadow='#### 8'), 0.5),
      (dict(answer='8'), dict(shadow='#### 8'), 1.0),
      (dict(answer='9'), dict(shadow='#### 8'), 0.0),
  )
  def test_what_an_alarm_counts_with_shadows(self, given, kept, counted):
    _, made = self.take(given, dict(shadow_share=0.5), **kept)
    expected = drift.update(drift.init(0.05), counted)
    np.testing.assert_allclose(made._alarms[_POINT][1].table, expected.table)

  @parameterized.parameters(
      (dict(answer='8'), dict(shadow='#### 8'), [1.0]),
      (dict(answer='7'), dict(shadow='#### 8'), [0.0]),
      # Before the shadow has ended.
      (dict(answer='8'), dict(is_shadowed=True), []),
      # Of such feedback a loss of 1 is never known, so that 0 says nothing.
      (dict(correct=True), dict(shadow='#### 8'), []),
      (dict(correct=False), dict(shadow='#### 8'), []),
  )
  def test_what_the_loss_in_service_is_estimated_from(self, given, kept, found):
    self.take(given, dict(shadow_share=0.5), **kept)
    self.assertEqual(self.losses, found)

  def test_the_rate_that_an_alarm_allows(self):
    _, made = self.take(dict(correct=True), dict(large_errors=0.1))
    self.assertAlmostEqual(float(made._alarms[_POINT][1].alpha), 0.15)
    _, made = self.take(dict(correct=True), dict(shadow_share=0.1))
    self.assertAlmostEqual(float(made._alarms[_POINT][1].alpha), 0.05)

  @parameterized.parameters({}, dict(correct=True, answer='7'))
  def test_correct_or_answer(self, **given):
    with self.assertRaisesRegex(refusals.Refusal, 'one of them'):
      self.take(given)


class StreamTest(parameterized.TestCase):
  """Long streams of answers, without the models behind them."""

  def stream(self, losses, model, path=None, **settings):
    """Gives feedback answer by answer; returns the feedback at the end.

    Args:
      losses: from the present threshold to whether the answer is lost.
    """
    store = store_lib.Store(path)
    made = feedback_lib.Feedback(
        router_server.make_router(),
        settings_lib.Settings(**settings),
        store,
        equivalence.exact,
        self.raised.append,
    )

    async def run():
      for index, loss in enumerate(losses):
        threshold = made.threshold()[1] if made.threshold else 0.0
        is_lost = loss(threshold)
        # An address may be used again, so it cannot tell streams apart.
        name = f'{uuid.uuid4()}/{index}'
        store.add_answer(
            name,
            owner='me',
            model=model,
            text='',
            is_all_large=False,
            is_shadowed=bool(settings.get('shadow_share')),
        )
        await made.take(name, 'me', correct=not is_lost)

    asyncio.run(run())
    store.close()
    return made

  def setUp(self):
    super().setUp()
    self.raised = []

  def test_the_long_run_loss_is_kept(self):
    rng = np.random.default_rng(0)
    # An answer is lost if its score is below the threshold and luck is bad:
    # at a threshold of 1 that is 40 % of them.
    lost = []

    def loss(threshold):
      lost.append(rng.random() < threshold and rng.random() < 0.4)
      return lost[-1]

    self.stream([loss] * 3_000, points_lib.ONLINE, online_alpha=0.1)
    # Within half a point of what was asked for.
    self.assertLess(abs(np.mean(lost) - 0.1), 0.005)

  def test_an_alarm_after_a_shift_and_none_before(self):
    rng = np.random.default_rng(0)
    before = [lambda _: rng.random() < 0.1] * 1_500  # .05 and .05 are allowed.
    after = [lambda _: rng.random() < 0.35] * 300
    model = f'router@{_POINT}'
    made = self.stream(before, model, alarm_delta=0.01)
    self.assertEmpty(self.raised)
    self.assertFalse(any(made.alarms().values()))
    rng = np.random.default_rng(0)
    made = self.stream([*before, *after], model, alarm_delta=0.01)
    self.assertEqual(self.raised, [_POINT])  # Once.
    self.assertEqual([k for k, x in made.alarms().items() if x], [_POINT])
    # The same as the alarm by itself.
    rng = np.random.default_rng(0)
    state = drift.init(0.05 + 0.05)
    for loss in [*before, *after]:
      state = drift.update(state, float(loss(0)))
    self.assertEqual(
        float(made._alarms[_POINT][1].highest), float(state.highest)
    )

  def test_feedback_before_the_shadows_raises_no_false_alarm(self):
    rng = np.random.default_rng(0)
    # One of ten is wrong, but of these the large model gets one of two wrong,
    # too: the loss is .05, as promised.
    before = [lambda _: rng.random() < 0.1] * 500
    after = [lambda _: rng.random() < 0.35] * 300
    settings = dict(shadow_share=1.0, large_errors=0.05)
    self.stream(before, f'router@{_POINT}', **settings)
    self.assertEmpty(self.raised)
    self.stream(after, f'router@{_POINT}', **settings)
    self.assertEqual(self.raised, [_POINT])

  def test_a_restart_changes_nothing(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'deep' / 'state'
    draws = np.random.default_rng(0).random(200) < 0.3
    losses = [lambda _, x=x: x for x in draws]
    settings = dict(online_alpha=0.1)
    whole = self.stream(losses, points_lib.ONLINE, **settings)
    self.stream(losses[:90], points_lib.ONLINE, path, **settings)
    self.stream(losses[90:], points_lib.ONLINE, path, **settings)
    made = self.stream([], points_lib.ONLINE, path, **settings)
    self.assertEqual(made.threshold(), whole.threshold())
    self.assertEqual(int(made._online[1].count), 200)
    # Another target is another threshold, which begins anew.
    made = self.stream([], points_lib.ONLINE, path, online_alpha=0.2)
    self.assertEqual(int(made._online[1].count), 0)

  def test_a_file_that_is_no_state_is_refused(self):
    path = pathlib.Path(self.create_tempfile(content='no' * 999).full_path)
    with self.assertRaisesRegex(ValueError, str(path)):
      store_lib.Store(path)


class ServedTest(router_server.ServedCase):
  """Feedback over HTTP."""

  def ask(self, client, model='router', question='12:5\n'):
    body = router_server.body(model=model, question=question)
    return client.post(router_server.CHAT, json=body).json()

  def give(self, client, id_, **fields):
    return client.post('/v1/feedback', json={'id': id_} | fields)

  def test_feedback_by_the_id_of_an_answer(self):
    _, client = self.serve()
    id_ = self.ask(client)['routing']['id']
    found = self.give(client, id_, answer='17')
    self.assertEqual(found.status_code, 200)
    self.assertTrue(found.json()['correct'])
    again = self.give(client, id_, correct=False)
    self.assertEqual(again.status_code, 409)
    unknown = self.give(client, 'chatcmpl-0', correct=False)
    self.assertEqual(unknown.status_code, 404)
    self.assertEqual(self.give(client, id_).status_code, 400)
    self.assertEqual(self.give(client, id_, correct='yes').status_code, 400)
    self.assertEqual(
        router_server.metric(client, 'routing_feedback_total', correct='true'),
        1,
    )

  def test_an_alarm_is_a_metric_and_falls_back(self):
    running, client = self.serve(
        router=router_server.make_router((2.0, 2.0, 2.0)),  # Small alone.
        alarm_falls_back=True,
        large_errors=0.0,
        alarm_delta=0.4,
    )
    model = 'router@loss<=0.02'
    for _ in range(40):
      answer = self.ask(client, model)
      if answer['model'] == router_server.LARGE:
        break
      self.give(client, answer['routing']['id'], correct=False)
    self.assertEqual(answer['routing']['fall_back'], router_server.LARGE)
    self.assertEqual(answer['routing']['fall_back_reason'], 'drift_alarm')
    self.assertEqual(
        router_server.metric(
            client, 'routing_drift_alarm', point='loss<=0.02@0.9'
        ),
        1,
    )
    self.assertEqual(
        router_server.metric(
            client, 'routing_fall_backs_total', reason='drift_alarm'
        ),
        1,
    )
    # Where nothing else answers, the answer says that it is not promised.
    running.service.settings = dataclasses.replace(
        running.service.settings, alarm_falls_back=False
    )
    answer = self.ask(client, model)
    self.assertIsNone(answer['routing']['fall_back'])
    self.assertFalse(answer['routing']['promise']['holds'])
    self.assertIn('alarm', answer['routing']['promise']['why_not'])
    # Another point, whose promise is another, is not concerned.
    other = self.ask(client, 'router@cost<=0.5')
    self.assertEqual(other['model'], 'router@cost<=0.5')

  def test_the_online_point_moves(self):
    running, client = self.serve(online_alpha=0.1)
    names = [x['id'] for x in client.get('/v1/models').json()['data']]
    self.assertIn('router@online', names)
    before = self.ask(client, 'router@online')
    threshold = before['routing']['steps'][0]['threshold']
    self.assertEqual(
        router_server.metric(client, 'routing_online_threshold'), threshold
    )
    self.give(client, before['routing']['id'], correct=False)
    after = self.ask(client, 'router@online')
    # The first answer was not the large model's alone, so it is a miss, which
    # lowers the threshold by eta_1 (1 - alpha) = 2 * .9.
    self.assertAlmostEqual(
        after['routing']['steps'][0]['threshold'], threshold - 1.8
    )
    del running

  def test_a_shadow_is_the_large_models_answer_and_nobody_waits_for_it(self):
    running, client = self.serve(shadow_share=1.0)
    answer = self.ask(client, 'router@cost<=0.3')
    id_ = answer['routing']['id']
    store = running.service.store
    router_server.until(lambda: store.answer(id_)['shadow'] is not None)
    wanted = self.ask(client, router_server.LARGE)
    self.assertEqual(
        store.answer(id_)['shadow'], wanted['choices'][0]['message']['content']
    )
    # It is paid, but not by the client.
    used = client.get('/v1/usage').json()['models']
    self.assertEqual(used[router_server.LARGE]['written'], 27)
    shadow = running.service.ledger.used('(shadow)')
    self.assertEqual(shadow[router_server.LARGE]['written'], 27)
    self.assertEqual(router_server.metric(client, 'routing_shadows_total'), 1)
    # The small model's answer, 18, is wrong, and the large model's right.
    found = self.give(client, id_, answer='17').json()
    self.assertEqual((found['loss'], found['is_loss_known']), (1.0, True))
    # Of two graded answers with a shadow, one is a loss. The third is graded
    # before its shadow has ended.
    ids = [self.ask(client, 'router@cost<=0.3')['routing']['id'] for _ in '23']
    for id_ in ids:
      router_server.until(lambda x=id_: store.answer(x)['shadow'] is not None)
    store._rows.execute(
        'UPDATE answers SET shadow = NULL WHERE id = ?', ids[1:]
    )
    for id_, right in zip(ids, ('18', '17'), strict=True):
      self.give(client, id_, answer=right)
    for name, count in (('losses', 1), ('graded_shadows', 2)):
      found = router_server.metric(
          client, f'routing_{name}_total', model='router@cost<=0.3'
      )
      self.assertEqual(found, count)

  def test_another_key_gives_no_feedback(self):
    keys, secret, _ = self.keys()
    other = type(keys[0])('bob', '0' * 64)
    running, client = self.serve(keys=(*keys, other))
    client.headers['authorization'] = f'Bearer {secret}'
    id_ = self.ask(client)['routing']['id']
    running.service.store._rows.execute("UPDATE answers SET owner = 'bob'")
    self.assertEqual(self.give(client, id_, correct=True).status_code, 404)

  def test_usage_and_answers_survive_a_restart(self):
    path = pathlib.Path(self.create_tempdir().full_path) / 'state.sqlite'
    make = lambda: router_server.scripted_service(path=path)
    with router_server.running(make) as running, running.client() as client:
      id_ = self.ask(client)['routing']['id']
      used = client.get('/v1/usage').json()
    with router_server.running(make) as running, running.client() as client:
      self.assertEqual(client.get('/v1/usage').json(), used)
      self.assertEqual(self.give(client, id_, correct=True).status_code, 200)

  def test_only_the_latest_answers_are_kept(self):
    store = store_lib.Store(None, keep_answers=2)
    for name in 'abc':
      store.add_answer(
          name, owner='', model='', text='', is_all_large=0, is_shadowed=0
      )
    kept = [store.answer(name) is not None for name in 'abc']
    self.assertEqual(kept, [False, True, True])


if __name__ == '__main__':
  absltest.main()
