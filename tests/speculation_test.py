"""Tests of taking a request step by step, with a simulated vLLM."""

import asyncio
import dataclasses
import sys
import types as python_types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import prompts
from routing.engines import segmentation
from routing.engines import shared_time
from routing.engines import speculation
from routing.engines import vllm_sessions

_WORDS = ('', 'a', 'b', '\n\n', '\n', '\n\nb', '$$', 'ab')
_END = 0  # Has no text.


class _Prompter(prompts.Prompter):
  """Tokenizes by the longest match from the left."""

  def __init__(self):
    super().__init__(tokenizer=mock.Mock(encode=lambda _: []))

  def incremental_decoder(self, prompt):
    return lambda token: _WORDS[token]

  def _encode(self, text):
    ids = []
    while text:
      word = max(filter(text.startswith, _WORDS), key=len)
      ids.append(_WORDS.index(word))
      text = text[len(word) :]
    return ids


class _Opening(_Prompter):
  opening = '$$b$$\n'


_PROMPTER = _Prompter()


class _Vllm:
  """Writes `pieces`, one or more tokens each; records if it is aborted."""

  def __init__(self, *pieces, fault=None):
    self.pieces, self.fault = pieces, fault
    self.num_outputs, self.is_aborted = 0, False

  async def outputs(self, reason):
    ids = []
    for piece in self.pieces:
      await asyncio.sleep(0)
      if self.is_aborted:
        yield self._output(ids, 'abort')
        return
      ids += piece
      self.num_outputs += 1
      is_last = piece is self.pieces[-1] and not self.fault
      yield self._output(ids, reason if is_last else None)
    if self.fault:
      raise self.fault

  async def abort(self):
    self.is_aborted = True

  def _output(self, ids, reason):
    rows = [[-i, -i, -9.0] for i in range(len(ids))]  # A row per token.
    table = _Rows(len(ids), [x for row in rows for x in row])
    completion = python_types.SimpleNamespace(
        token_ids=list(ids), logprobs=table, finish_reason=reason
    )
    return python_types.SimpleNamespace(
        outputs=[completion], finished=bool(reason), num_cached_tokens=2
    )


@dataclasses.dataclass
class _Rows:
  """vLLM's flat log-probabilities: rows of one length, concatenated."""

  count: int
  logprobs: list[float]

  def __len__(self):
    return self.count


_QUESTION = 'bbb'
_REQUEST = engine_lib.Request('a\n\n', max_tokens=20)


def _run(
    vllm, reason='stop', request=_REQUEST, clock=lambda: 0.0, prompter=_PROMPTER
):
  return speculation.Run(
      vllm.outputs(reason),
      vllm.abort,
      prompter,
      _QUESTION,
      request,
      prompter.ids(_QUESTION, request.trace),
      0,
      shared_time.SharedTime(clock),
  )


class RunTest(parameterized.TestCase):

  def test_returns_one_step_after_the_other(self):
    vllm = _Vllm([1], [2], [3], [2], [3], [1], [_END])

    async def take():
      run = _run(vllm)
      parts = []
      while not run.is_over:
        parts.append((vllm.num_outputs, *await run.take('\n\n', 20)))
      return parts

    parts = asyncio.run(take())
    self.assertEqual(
        [part.pieces for _, part, _ in parts],
        [['a', 'b', '\n\n'], ['b', '\n\n'], ['a', '']],
    )
    # No output is awaited before a caller needs it.
    self.assertEqual([told for told, *_ in parts], [0, 3, 5])
    self.assertEqual([p.token_ids for _, p, _ in parts][1:], [[2, 3], [1, 0]])
    self.assertEqual([p.is_final for _, p, _ in parts], [False, False, True])
    for start, (_, part, _) in zip((0, 3, 5), parts, strict=True):
      rows = -np.arange(start, start + len(part.pieces), dtype=np.float32)
      np.testing.assert_array_equal(part.log_probs, rows)
      np.testing.assert_array_equal(part.top_log_probs[:, 0], rows)
      self.assertEqual(part.top_log_probs.shape, (len(rows), 2))
    # 2 of the prompt's 5 tokens were cached; later steps read nothing.
    usages = [(u.read, u.cached, u.written, u.in_context) for *_, u in parts]
    self.assertEqual(
        usages, [(3, 2, 3, 0), (0, 0, 2, 5 + 3), (0, 0, 2, 5 + 3 + 2)]
    )

  def test_tokens_received_meanwhile_are_returned_at_once(self):
    vllm = _Vllm([1, 3, 2], [3, 1], [_END])

    async def take():
      run = _run(vllm)
      parts = [(await run.take('\n\n', 20))[0].pieces for _ in range(2)]
      return parts, vllm.num_outputs

    self.assertEqual(asyncio.run(take()), ([['a', '\n\n'], ['b', '\n\n']], 2))

  @parameterized.parameters(
      # The stop string may take two tokens and be followed by more text.
      ([[1], [4], [4], [2]], ['a', '\n', '\n']),
      ([[1], [5], [2]], ['a', '\n\n']),
      ([[1, 5, 2]], ['a', '\n\n']),
  )
  def test_stops_where_the_text_does(self, pieces, expected):
    part, _ = asyncio.run(_run(_Vllm(*pieces)).take('\n\n', 20))
    self.assertEqual(part.pieces, expected)
    self.assertFalse(part.is_final)

  @parameterized.parameters(
      ([7, 3], dict(), True),
      ([7, 3], dict(max_tokens=17), True),
      ([7, 3], dict(max_tokens=19), False),  # More than the run has left.
      ([7, 3], dict(trace='a\n\nba\n\n'), False),  # Another text.
      ([7, 3], dict(temperature=1.0), False),
      ([5], dict(), False),  # The token spells more than the step.
      # The tokenizer would read other tokens: 'ab' is one, so is '\n\nb'.
      ([1, 2, 3], dict(), False),
      ([2, 3], dict(), False),
      ([7, 4, 4], dict(), False),
  )
  def test_serves_a_request_that_would_read_the_same_tokens(
      self, ids, fields, expected
  ):
    run = _run(_Vllm(ids, [1]))
    part, _ = asyncio.run(run.take('\n\n', 20))
    following = dict(
        trace=_REQUEST.trace + ''.join(part.pieces), max_tokens=20 - len(ids)
    )
    self.assertEqual(
        run.can_serve(dataclasses.replace(_REQUEST, **following | fields)),
        expected,
    )

  def test_the_token_limit_is_not_the_end_of_the_answer(self):
    run = _run(_Vllm([1], [2], [1]), reason='length')
    part, _ = asyncio.run(run.take('\n\n', 3))
    self.assertEqual((len(part.pieces), part.is_final), (3, False))
    self.assertTrue(run.is_over)

  def test_an_answer_may_end_exactly_at_the_token_limit(self):
    run = _run(_Vllm([1], [2], [_END]))
    part, _ = asyncio.run(run.take('\n\n', 3))
    self.assertTrue(part.is_final)

  def test_fewer_tokens_may_be_taken_than_the_run_has(self):
    run = _run(_Vllm([1], [2], [_END]))
    part, _ = asyncio.run(run.take('\n\n', 2))
    self.assertEqual((part.pieces, part.is_final), (['a', 'b'], False))
    self.assertFalse(run.is_over)

  def test_tokens_not_taken_are_wasted(self):
    vllm = _Vllm([1], [3, 1, 2], [1], [1])

    async def cancel_speculation():
      run = _run(vllm)
      await run.take('\n\n', 20)
      return await run.end()

    self.assertEqual(
        asyncio.run(cancel_speculation()),
        types.Usage(0, 0, 0, 2, in_context=5 + 2),
    )
    self.assertTrue(vllm.is_aborted)
    self.assertEqual(vllm.num_outputs, 2)

  def test_a_run_whose_process_died_can_be_ended(self):
    async def cancel_speculation():
      run = _run(_Vllm([1], [3, 1], fault=ValueError('died')))
      await run.take('\n\n', 20)
      return await run.end()

    self.assertEqual(asyncio.run(cancel_speculation()).written, 1)

  def test_an_error_reaches_the_caller_of_take(self):
    async def take():
      run = _run(_Vllm([1], fault=ValueError('died')))
      with self.assertRaisesRegex(ValueError, 'died'):
        await run.take('\n\n', 20)

    asyncio.run(take())

  def test_a_request_that_vllm_ends_with_an_error_is_an_error(self):
    with self.assertRaisesRegex(RuntimeError, "finish reason 'error'"):
      asyncio.run(_run(_Vllm([1]), reason='error').take(None, 20))

  def test_seconds_are_those_since_the_last_step(self):
    now = 0.0

    async def take():
      nonlocal now
      run = _run(_Vllm([1, 3], [1, 3], [1]), clock=lambda: now)
      seconds = []
      for then in (2.0, 5.0):
        now = then
        seconds.append((await run.take('\n\n', 20))[1].seconds)
      now = 6.0
      return [*seconds, (await run.end()).seconds]

    self.assertEqual(asyncio.run(take()), [2.0, 3.0, 1.0])

  def test_steps_are_those_of_the_whole_answer(self):
    """Random words: blocks, blank lines, delimiters in two tokens."""
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(500):
      ids = [*rng.integers(1, len(_WORDS), size=rng.integers(0, 12)), _END]

      async def write(ids=ids):
        run = _run(_Vllm(*([i] for i in ids)))

        async def call(text, stop, max_tokens):
          del text
          return await run.take(stop, max_tokens)

        steps = []
        while not run.is_over:
          steps += await segmentation.write_steps(
              call, to_end=False, max_tokens=20
          )
        return steps

      steps = asyncio.run(write())
      self.assertEqual([i for step in steps for i in step.token_ids], ids)
      words = [_WORDS[i] for i in ids]
      if ''.join(step.text for step in steps) != ''.join(words):
        continue  # A token spelled more than a step: the run is not reused.
      count += 1
      whole = [step.text for step in segmentation.slices(words)]
      self.assertEqual([step.text for step in steps], whole)
    self.assertGreater(count, 200)


class SessionTest(absltest.TestCase):
  """A session of the vLLM engine, with the simulated vLLM."""

  def setUp(self):
    super().setUp()
    # The only thing that a session needs of vLLM is the error of a dead one.
    exceptions = python_types.SimpleNamespace(EngineDeadError=KeyError)
    engine = python_types.SimpleNamespace(exceptions=exceptions)
    modules = {'vllm': mock.Mock(), 'vllm.v1': mock.Mock()}
    modules['vllm.v1.engine'] = engine
    self.enter_context(mock.patch.dict(sys.modules, modules))
    # 'a' and the delimiter are a step; 4 further tokens are speculative.
    self.vllm = _Vllm([1, 3, 2, 2], [2, 3], [_END])

  def _open(self, prompter=_PROMPTER):
    return vllm_sessions.VllmSession(
        _QUESTION,
        0,
        lambda session, request, stop: _run(
            self.vllm, request=request, prompter=prompter
        ),
        mock.AsyncMock(),
        num_equal=0,
        opening=prompter.opening,
    )

  def test_waste_is_returned_once(self):
    async def run():
      async with self._open() as session:
        (step,) = await session.write(_REQUEST)
        return step, [
            await session.cancel_speculation(),
            await session.close(),
            await session.close(),
        ]

    step, usages = asyncio.run(run())
    self.assertEqual(step.num_tokens, 2)
    self.assertEqual(usages, [types.Usage(0, 0, 0, 2, 0.0, 5 + 2), None, None])
    self.assertTrue(self.vllm.is_aborted)

  def _write_opened(self, num_steps, *pieces):
    """Returns the first steps of an answer with an opening."""
    self.vllm = _Vllm(*pieces)

    async def run():
      async with self._open(_Opening()) as session:
        steps = ()
        for left in (20, 10)[:num_steps]:
          trace = ''.join(step.text for step in steps)
          request = engine_lib.Request(trace, max_tokens=left)
          steps += await session.write(request)
        return steps

    return asyncio.run(run())

  def test_speculation_goes_on_after_an_opening(self):
    first, second = self._write_opened(2, [1, 3], [2, 3], [_END])
    self.assertEqual(first.text, '$$b$$\na\n\n')
    self.assertEqual(first.usage.written, 2)
    self.assertEqual(second.text, 'b\n\n')  # A new request would write 'a'.

  def test_a_line_break_after_an_opening_makes_no_second_step(self):
    (first,) = self._write_opened(1, [4, 1, 3], [2, 3], [_END])
    self.assertEqual(first.text, '$$b$$\n\n')
    # 'a' and the delimiter are dropped, and paid.
    self.assertEqual(first.usage.written, 3)

  def test_a_caller_that_is_cancelled_while_it_closes_can_close_again(self):
    waiting = asyncio.Event()

    async def abort():
      await waiting.wait()
      self.vllm.is_aborted = True

    self.vllm.abort = abort

    async def run():
      session = self._open()
      await session.write(_REQUEST)
      closing = asyncio.create_task(session.close())
      await asyncio.sleep(0)
      closing.cancel()
      await asyncio.wait({closing})
      waiting.set()
      return closing.cancelled(), await session.close()

    was_cancelled, wasted = asyncio.run(run())
    self.assertTrue(was_cancelled)
    self.assertEqual(wasted.written, 2)
    self.assertTrue(self.vllm.is_aborted)

  def test_a_cancelled_write_is_aborted(self):
    async def run():
      async with self._open() as session:
        writing = asyncio.create_task(session.write(_REQUEST))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        return await session.close()

    self.assertIsNone(asyncio.run(run()))
    self.assertTrue(self.vllm.is_aborted)


if __name__ == '__main__':
  absltest.main()
