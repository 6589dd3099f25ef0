"""Tests of models that are asked to continue an answer, on a real server."""

import asyncio

from absl.testing import absltest
from absl.testing import parameterized

from routing.engines import endpoint as endpoint_lib
from routing.engines import openai
from routing.engines import prompts
from routing.engines import scripted
from routing.rollout import steps as steps_lib
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import prompt as prompt_lib
from tests import openai_server
from tests import sessions


class InstructTest(parameterized.TestCase):
  """A model that cannot continue a half-written answer."""

  def _write(self, reply, **fields):
    model = openai_server.Model(
        scripted.ScriptedEngine('s', 0, lambda request: reply), is_vllm=False
    )
    with openai_server.serve(openai_server.make_app(model)) as url:
      (steps,) = asyncio.run(self._ask(url, fields))
    self.assertLen(model.requests, 1)
    (body,) = model.requests
    self.assertNotIn('stop', body)
    self.assertEqual(body['messages'][0], {'role': 'system', 'content': 'S'})
    return steps, body['messages'][1]['content']

  async def _ask(self, url, fields):
    """Makes one request to the server at `url`."""
    engine = openai.OpenAIEngine(
        'served',
        0,
        endpoint_lib.Endpoint(
            url, 'm', mode='instruct', seeds=True, num_log_probs=2
        ),
        prompt=prompt_lib.Prompt(system='S'),
    )
    try:
      return await sessions.write_all(engine, [sessions.ask('q\n', **fields)])
    finally:
      await engine.close()

  def test_is_shown_the_trace_and_its_answer_is_cut(self):
    steps, asked = self._write('b\n\nc\n', trace='a\n\n', to_end=True)
    self.assertEqual([step.text for step in steps], ['b\n\n', 'c'])
    self.assertIn('\n\na\n\n', asked)
    self.assertTrue(steps[-1].is_final)
    written = steps_lib.call_usage(steps).written
    self.assertEqual(written, len('b\n\nc\n'))

  @parameterized.parameters(
      ('b\n\n', 'b\n\n', False),
      (' b\n', 'b\n\n', False),
      ('b <done>', 'b', True),
      ('b\n\nc\n\nd', 'b\n\n', False),  # More than requested.
      ('<done>', '', True),
  )
  def test_writes_one_step_and_marks_the_last(self, reply, text, is_final):
    (step,), asked = self._write(reply, trace='a\n\n')
    self.assertEqual((step.text, step.is_final), (text, is_final))
    self.assertEqual(step.usage.written, len(reply))
    self.assertLessEqual(step.num_tokens, len(reply))
    self.assertIn(prompts.DONE, asked)

  def test_a_model_is_told_how_steps_end(self):
    (step,), asked = self._write(
        'b', trace='a\n', delimiter=delimiter_lib.of('\n')
    )
    self.assertEqual(step.text, 'b\n')
    self.assertIn('end it with a line break.', asked)

  def test_steps_that_end_in_no_white_space_are_not_glued(self):
    (step,), _ = self._write(
        '2 is half of it.',
        trace='So it is 4.',
        delimiter=delimiter_lib.of('.'),
    )
    self.assertEqual(step.text, ' 2 is half of it.')

  def test_a_step_cut_short_gets_no_delimiter(self):
    (step,), _ = self._write('bcdef', max_tokens=3)
    self.assertEqual((step.text, step.is_final), ('bcd', False))


if __name__ == '__main__':
  absltest.main()
