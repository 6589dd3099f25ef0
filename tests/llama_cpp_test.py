"""llama.cpp, started for real, writes what the embedded engine writes."""

import asyncio
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import httpx
import numpy as np

from routing.engines import back_ends
from routing.engines import embedded
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import llama_cpp
from routing.engines import llama_cpp_stream
from routing.engines import openai
from routing.engines import route as route_lib
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import prompt as prompt_lib
from tests import gguf_files
from tests import llama_cpp_case
from tests import sessions

_SMALL, _QUESTIONS = llama_cpp_case.SMALL, llama_cpp_case.QUESTIONS


def _embedded():
  weights = export.load_pretrained(_SMALL)
  return embedded.EmbeddedEngine('s', 0, *weights, tokenizer_lib.Tokenizer())


class LlamaCppTest(llama_cpp_case.LlamaCppCase):

  @parameterized.parameters(True, False)
  def test_writes_the_same(self, to_end):
    requests = [
        sessions.ask(question, to_end=to_end, max_tokens=180)
        for question in _QUESTIONS
    ]
    served = self.run_on(self.make(), requests)
    direct = self.run_on(_embedded(), requests)
    self.assertTrue(any(len(steps) > 1 for steps in direct) or not to_end)
    for ours, theirs in zip(served, direct, strict=True):
      self.assertEqual([s.text for s in ours], [s.text for s in theirs])
      for a, b in zip(ours, theirs, strict=True):
        self.assertEqual(a.token_ids, b.token_ids)
        self.assertEqual(a.is_final, b.is_final)
        for name in ('route', 'read', 'cached', 'written', 'in_context'):
          self.assertEqual(getattr(a.usage, name), getattr(b.usage, name), name)
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-3)
        # The embedded engine never writes <pad>; llama.cpp counts its small
        # probability, which moves the lower ranks.
        np.testing.assert_allclose(
            a.top_log_probs[:, 0], b.top_log_probs[:, 0], atol=1e-3
        )
        self.assertEqual(a.top_log_probs.shape[1], 5)

  @parameterized.parameters(
      (' = ',), ({'pattern': r'P=\d\d'},), ({'max_tokens': 7},)
  )
  def test_other_delimiters_end_steps(self, delimiter):
    whole, steps = self._both_ways(delimiter_lib.of(delimiter))
    self.assertGreater(len(steps), 3)
    self.assertEqual([s.text for s in whole], [s.text for s in steps])
    is_dropped = sum(s.usage.written - s.num_tokens for s in steps) > 0
    self.assertEqual(is_dropped, delimiter != ' = ')

  def test_steps_one_by_one_are_the_answer_at_once(self):
    whole, steps = self._both_ways(delimiter_lib.BLANK_LINE)
    self.assertGreater(len(steps), 2)
    self.assertEqual([s.text for s in whole], [s.text for s in steps])
    for one, other in zip(whole, steps, strict=True):
      np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-3)
    # The prompt of a step is the last one, its step included.
    self.assertEqual(
        [step.usage.cached for step in steps[1:]],
        [step.usage.in_context for step in whole[1:]],
    )
    self.assertEqual({step.usage.read for step in steps[1:]}, {0})

  def _both_ways(self, delimiter):
    """Writes an answer in one call, and step by step."""

    async def run():
      engine = self.make()
      async with engine.open(_QUESTIONS[0]) as session:
        whole = await session.write(
            engine_lib.Request(to_end=True, max_tokens=180, delimiter=delimiter)
        )
      steps = []
      async with engine.open(_QUESTIONS[0]) as session:
        while not steps or not steps[-1].is_final:
          trace = ''.join(step.text for step in steps)
          steps += await session.write(
              engine_lib.Request(
                  trace=trace, max_tokens=180, delimiter=delimiter
              )
          )
      await engine.close()
      return whole, steps

    return asyncio.run(run())

  def test_the_protocol_of_openai_gives_the_same_steps(self):
    async def run():
      native = self.make()
      served = openai.OpenAIEngine(
          'served',
          0,
          endpoint_lib.Endpoint(
              f'{native.address}/v1',
              str(self.file),
              num_log_probs=5,
              max_length=256,
          ),
          prompter=self.prompter,
      )
      found = []
      for engine in (native, served):
        async with engine.open(_QUESTIONS[0]) as session:
          steps = []
          while not steps or not steps[-1].is_final and len(steps) < 20:
            trace = ''.join(step.text for step in steps)
            steps += await session.write(
                engine_lib.Request(trace=trace, max_tokens=180)
            )
        found.append(steps)
      await served.close()
      await native.close()
      return found

    native, served = asyncio.run(run())
    self.assertEqual([s.text for s in native], [s.text for s in served])
    for ours, theirs in zip(native, served, strict=True):
      self.assertEqual(ours.usage.written, theirs.usage.written)
      # The server lists no stop string among the tokens.
      count = len(theirs.token_ids)
      self.assertEqual(theirs.token_ids, ours.token_ids[:count])
      np.testing.assert_allclose(
          theirs.log_probs, ours.log_probs[:count], atol=1e-3
      )
    self.assertTrue(served[-1].is_final)

  def test_samples_repeat_with_their_seed(self):
    requests = [
        sessions.ask(
            _QUESTIONS[0],
            session=str(i),
            to_end=True,
            max_tokens=60,
            temperature=3.0,
            seed=seed,
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    one, same, other = self.run_on(self.make(num_slots=1), requests)
    text = lambda steps: ''.join(step.text for step in steps)
    self.assertEqual(text(one), text(same))
    self.assertNotEqual(text(one), text(other))

  def test_a_limit_cuts_the_answer(self):
    (steps,) = self.run_on(
        self.make(),
        [sessions.ask(_QUESTIONS[0], to_end=True, max_tokens=5)],
    )
    self.assertEqual(sum(step.usage.written for step in steps), 5)
    self.assertFalse(steps[-1].is_final)

  def test_a_prompt_without_room_is_refused(self):
    engine = self.make()
    trace = '1' * 300
    with self.assertRaisesRegex(
        engine_lib.Refused, 'max_length of small is 25'
    ):
      self.run_on(engine, [sessions.ask(_QUESTIONS[0], trace=trace)])

  def test_a_cancelled_request_ends_in_the_server(self):
    async def run():
      engine = self.make(num_slots=1)
      async with engine.open(_QUESTIONS[0]) as session:
        task = asyncio.create_task(
            session.write(
                engine_lib.Request(
                    to_end=True, max_tokens=230, temperature=9.0, seed=1
                )
            )
        )
        await asyncio.sleep(0.01)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
          await task
        # The only slot is free again.
        steps = await asyncio.wait_for(
            session.write(engine_lib.Request(max_tokens=20)), 60
        )
      await engine.close()
      return steps

    self.assertNotEmpty(asyncio.run(run())[0].text)

  def test_a_server_that_runs_already(self):
    async def run():
      first = self.make()
      url = first.address
      second = llama_cpp.LlamaCppEngine(
          'again',
          0,
          llama_cpp.Settings('small', base_url=url, max_length=256),
          self.prompter,
      )
      async with second.open(_QUESTIONS[0]) as session:
        steps = await session.write(engine_lib.Request())
        await first.close()
        with self.assertRaisesRegex(engine_lib.Unavailable, 'does not answer'):
          await session.write(engine_lib.Request())
      await second.close()
      return steps

    self.assertTrue(asyncio.run(run())[0].text.endswith('\n\n'))

  def test_what_a_server_refuses(self):
    engine = self.make()

    async def run(status, text):
      answer = lambda _: httpx.Response(status, text=text)
      engine._client = httpx.AsyncClient(
          transport=httpx.MockTransport(answer), base_url='http://a'
      )
      async with engine.open(_QUESTIONS[0]) as session:
        await session.write(engine_lib.Request())

    for status, error in (
        (400, engine_lib.Refused),
        (401, engine_lib.Stop),
        (503, engine_lib.Unavailable),
        (200, engine_lib.Unavailable),  # The stream ends without an end.
    ):
      with self.subTest(status), self.assertRaises(error):
        asyncio.run(run(status, ''))
    with self.assertRaisesRegex(engine_lib.Refused, 'answered 400: .*too long'):
      asyncio.run(run(200, 'error: {"code": 400, "message": "too long"}\n\n'))

  def test_a_character_of_several_tokens(self):
    reply = llama_cpp_stream.Reply()
    for event in (
        dict(content='a', tokens=[7], tokens_predicted=1, stop=False),
        dict(content='é', tokens=[9], tokens_predicted=3, stop=False),
        dict(
            content='',
            tokens=[],
            tokens_predicted=4,
            stop=True,
            stop_type='limit',
        ),
    ):
      reply.add(event)
    written = reply.written(2, None)
    self.assertEqual(written.pieces, ['a', '', 'é', ''])
    unknown = llama_cpp_stream.UNKNOWN_ID
    self.assertEqual(written.token_ids, [7, unknown, 9, unknown])
    self.assertTrue(np.isnan(written.log_probs).all())
    self.assertFalse(written.is_final)


class RouteTest(absltest.TestCase):

  def test_stated_parameters_decide_the_prices(self):
    spec = self.route(spec=dict(parameters=2_000_000)).cost_spec()
    self.assertEqual((spec.parameters, spec.price_output), (2_000_000, 2.0))
    spec = self.route(
        spec=dict(parameters=2_000_000, price_output=7.0)
    ).cost_spec()
    self.assertEqual((spec.price_output, spec.price_input), (7.0, 0.4))

  def setUp(self):
    super().setUp()
    self.file = pathlib.Path(self.create_tempdir().full_path) / 'a.gguf'
    gguf_files.write(_SMALL, self.file)

  def route(self, **fields):
    given = dict(
        name='small',
        engine='llama_cpp',
        model=str(self.file),
        weights='shipped/small',
        prompt=prompt_lib.Prompt(is_chat=False),  # They have no template.
    )
    return route_lib.Route(**(given | fields))

  def test_the_file_identifies_the_model_wherever_it_lies(self):
    key = back_ends.answer_key(self.route())
    moved = self.file.with_name('b.gguf')
    moved.write_bytes(self.file.read_bytes())
    other = self.route(model=str(moved), settings=dict(num_slots=3))
    self.assertEqual(back_ends.answer_key(other), key)
    gguf_files.write(export.shipped('large'), moved)
    route_lib.find_file.cache_clear()
    self.assertNotEqual(back_ends.answer_key(other), key)

  def test_a_route_without_a_tokenizer(self):
    with self.assertRaisesRegex(ValueError, "Route 'small' has no weights"):
      back_ends.make(self.route(weights=''), 0)

  def test_files_that_are_none(self):
    with self.assertRaisesRegex(ValueError, 'no.gguf. does not exist'):
      back_ends.make(self.route(model='/tmp/a/b/no.gguf'), 0)
    self.file.write_bytes(b'PK34')
    with self.assertRaisesRegex(ValueError, 'is not a GGUF file'):
      back_ends.make(self.route(), 0)


if __name__ == '__main__':
  absltest.main()
