"""What llama.cpp's server does while it writes, and with shared tokens."""

import asyncio
from unittest import mock

from absl.testing import absltest

from routing.engines import engine as engine_lib
from routing.tasks import prompt as prompt_lib
from tests import llama_cpp_case
from tests import sessions


class LlamaCppServerTest(llama_cpp_case.LlamaCppCase):

  def test_shared_tokens_are_read_once_for_all_slots(self):
    first, *others = llama_cpp_case.QUESTIONS[:4]
    shared = len(self.prompter.ids(first, ''))
    prompter = mock.Mock(wraps=self.prompter, opening='')
    prompter.num_shared = lambda: shared

    async def run(is_shared):
      engine = self.make(prompter, num_slots=3, shares_prefix=is_shared)
      request = engine_lib.Request(max_tokens=4)
      try:
        return await asyncio.gather(
            *(engine.reply(first + x, request) for x in others)
        )
      finally:
        await engine.close()

    found, apart = asyncio.run(run(True)), asyncio.run(run(False))
    self.assertEqual([x[0].usage.cached for x in apart], [0] * 3)
    for steps, alone in zip(found, apart, strict=True):
      self.assertGreaterEqual(steps[0].usage.cached, shared)
      self.assertEqual(steps[0].token_ids, alone[0].token_ids)

  def test_asides_with_slots_of_their_own_displace_no_answer(self):
    question, *others = llama_cpp_case.QUESTIONS[:3]
    asides = list(map(prompt_lib.Plain, others))
    request = engine_lib.Request(max_tokens=4)

    async def run(num_aside_slots):
      engine = self.make(num_slots=1, num_aside_slots=num_aside_slots)
      asked = (question, asides[0], question, asides[1], asides[1])
      try:
        return [(await engine.reply(x, request))[0] for x in asked]
      finally:
        await engine.close()

    apart, together = asyncio.run(run(1)), asyncio.run(run(0))
    self.assertEqual(
        [x.token_ids for x in apart], [x.token_ids for x in together]
    )
    # All but the last token, which gives the logits of the first new one.
    count = len(self.prompter.ids(question, ''))
    self.assertEqual(apart[2].usage.cached, count - 1)
    self.assertLess(together[2].usage.cached, count - 1)
    again = len(self.prompter.ids(asides[1], ''))
    self.assertEqual(apart[4].usage.cached, again - 1)

  def test_steps_are_told_while_they_are_written(self):
    fields = dict(to_end=True, max_tokens=180)
    (whole,) = self.run_on(
        self.make(), [sessions.ask(llama_cpp_case.QUESTIONS[0], **fields)]
    )
    told, counts = [], []

    def on_step(place, step):
      told.append(step)
      counts.append((place, reply_is_whole[0]))

    reply_is_whole = [False]

    async def run():
      engine = self.make()
      ask = engine._ask

      async def watched(*args):
        await ask(*args)
        reply_is_whole[0] = True

      engine._ask = watched
      request = engine_lib.Request(on_step=on_step, **fields)
      async with engine.open(llama_cpp_case.QUESTIONS[0]) as session:
        steps = await session.write(request)
      given_up = []
      cancelled = engine_lib.Request(
          on_step=lambda place, step: given_up.append(step) or task.cancel(),
          **fields,
      )
      async with engine.open(llama_cpp_case.QUESTIONS[0]) as session:
        task = asyncio.create_task(session.write(cancelled))
        await asyncio.wait([task])
      await engine.close()
      self.assertTrue(task.cancelled())
      return steps, given_up

    steps, given_up = asyncio.run(run())
    self.assertGreater(len(whole), 2)
    self.assertEqual([x.text for x in steps], [x.text for x in whole])
    self.assertEqual([x.text for x in told], [x.text for x in whole[:-1]])
    self.assertEqual(counts, [(i, False) for i in range(len(told))])
    for one, other in zip(told, steps, strict=False):
      self.assertEqual(''.join(one.pieces), one.text)
      self.assertEqual(one.pieces, other.pieces)
      for name in ('read', 'cached', 'written', 'in_context'):
        self.assertEqual(getattr(one.usage, name), getattr(other.usage, name))
    # What has come of a request that was given up is told, and no more.
    self.assertEqual(given_up[0].text, whole[0].text)
    self.assertEqual(given_up[0].usage.read, whole[0].usage.read)
    self.assertTrue(
        ''.join(x.text for x in whole).startswith(
            ''.join(x.text for x in given_up)
        )
    )
    self.assertLess(
        sum(x.usage.written for x in given_up),
        sum(x.usage.written for x in whole),
    )


if __name__ == '__main__':
  absltest.main()
