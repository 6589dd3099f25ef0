"""Tests of reading replies: what is not reported stays missing."""

import datetime
import email.utils
import types as builtin_types

from absl.testing import absltest
from absl.testing import parameterized
import httpx
import numpy as np
import openai
from openai.types.chat import chat_completion

from routing import types
from routing.engines import engine as engine_lib
from routing.engines import openai_faults
from routing.engines import openai_responses
from routing.engines import segmentation

_Fields = builtin_types.SimpleNamespace
_log_probs = chat_completion.ChoiceLogprobs.construct


def _token(text, log_prob, *tops):
  tops = [dict(token='?', logprob=x) for x in tops]
  return dict(token=text, logprob=log_prob, top_logprobs=tops)


def _response(text, content=None, *, finish='stop', written=2, details=None):
  """Returns a chat response; `content` has its log-probabilities."""
  return _Fields(
      choices=[
          _Fields(
              finish_reason=finish,
              message=_Fields(content=text),
              logprobs=content and _log_probs(content=content),
          )
      ],
      usage=_Fields(
          prompt_tokens=10,
          completion_tokens=written,
          prompt_tokens_details=details,
      ),
  )


def _steps(response, num_top=2):
  """Returns the steps of a response as an engine does."""
  reply = openai_responses.read_reply(response, 'x', 0, num_top)
  written = openai_responses.to_written(reply, reply.text, None, True)
  usage = types.Usage(0, reply.read, reply.cached, reply.written)
  return [
      openai_responses.without_gaps(s)
      for s in segmentation.to_steps(written, usage)
  ]


class ReplyTest(parameterized.TestCase):

  def test_alternatives_are_sorted_and_of_one_width(self):
    content = [_token('a', -3.0, -0.5, -3.0, -1.0), _token('b', -0.1, -0.1, -2)]
    (step,) = _steps(_response('ab', content))
    np.testing.assert_allclose(step.log_probs, [-3.0, -0.1])
    np.testing.assert_allclose(step.top_log_probs, [[-0.5, -1.0], [-0.1, -2.0]])
    # One token has only one alternative, so all are cut to one.
    content[1]['top_logprobs'].pop()
    (step,) = _steps(_response('ab', content))
    np.testing.assert_allclose(step.top_log_probs, [[-0.5], [-0.1]])

  def test_one_missing_log_prob_leaves_its_step_without_any(self):
    content = [
        _token('a\n\n', -0.2, -0.2, -2.0),
        _token('b', None),
        _token('c', -0.3, -0.3, -1.0),
    ]
    first, second = _steps(_response('a\n\nbc', content))
    np.testing.assert_allclose(first.log_probs, [-0.2])
    self.assertEqual(first.top_log_probs.shape, (1, 0))
    self.assertEqual(second.log_probs.shape, (0,))
    self.assertEqual(second.top_log_probs.shape, (2, 0))
    self.assertLen(second.token_ids, 2)

  @parameterized.parameters(-9999.0, None)
  def test_a_mark_is_no_log_prob(self, mark):
    content = [_token('a\n\n', -0.2, -0.2, mark), _token('b', mark, -0.3, -1)]
    first, second = _steps(_response('a\n\nb', content))
    np.testing.assert_allclose(first.log_probs, [-0.2])
    self.assertEqual(second.log_probs.shape, (0,))
    # The alternatives that are known remain, as many as each token has.
    np.testing.assert_allclose(first.top_log_probs, [[-0.2]])

  def test_tokens_of_a_removed_stop_string_are_dropped(self):
    content = [
        _token(text, -0.1 * i, -0.1 * i)
        for i, text in enumerate(['a', '\n\n', 'b', '#', '#'], 1)
    ]
    first, second = _steps(_response('a\n\nb', content, written=5))
    np.testing.assert_allclose(first.log_probs, [-0.1, -0.2])
    np.testing.assert_allclose(second.log_probs, [-0.3])
    self.assertEqual((first.num_tokens, second.num_tokens), (2, 1))

  @parameterized.parameters(
      # Nothing is written, or only end-of-sequence.
      ('', None, 0, False, True),
      ('', None, 1, False, True),
      ('', ['<e>'], 1, False, True),
      # The stop string comes at once: as a token, or to close a formula.
      ('', ['\n\n'], 1, False, False),
      ('', None, 1, True, False),
      ('', None, 2, False, False),
      # The tokens show how a text ended; without them it is not known.
      ('ab', ['ab', '<e>'], 2, False, True),
      ('ab', ['ab', '\n\n'], 2, False, False),
      ('ab', ['ab'], 1, False, False),
      ('ab', ['ab', ''], 2, False, True),  # As llama.cpp does.
      ('ab', None, 2, False, False),
  )
  def test_tells_the_end_from_a_stop(self, text, tokens, n, in_block, is_end):
    content = tokens and [_token(token, -0.1) for token in tokens]
    response = _response(text, content, written=n)
    reply = openai_responses.read_reply(response, 'x', 0, 0)
    self.assertEqual(
        openai_responses.ends_answer(reply, '\n\n', in_block), is_end
    )

  def test_an_empty_line_is_no_end(self):
    reply = openai_responses.read_reply(_response('', written=1), 'x', 0, 0)
    self.assertFalse(openai_responses.ends_answer(reply, '\n', False))

  def test_unreported_tokens_are_spread_over_the_text(self):
    first, second = _steps(_response('ab\n\ncdef', written=4))
    self.assertEqual((first.text, second.text), ('ab\n\n', 'cdef'))
    self.assertEqual(first.token_ids, (openai_responses.UNKNOWN_ID,) * 2)
    self.assertEqual(first.log_probs.shape, (0,))
    self.assertEqual(second.usage.written, 2)

  @parameterized.parameters(
      (None, 10, 0),
      (_Fields(cached_tokens=None), 10, 0),
      (_Fields(cached_tokens=8), 2, 8),
  )
  def test_cached_input_is_counted_separately(self, details, read, cached):
    (step,) = _steps(_response('ab', details=details))
    self.assertEqual((step.usage.read, step.usage.cached), (read, cached))

  def test_missing_usage_is_an_error(self):
    response = _response('ab')
    response.usage = None
    with self.assertRaisesRegex(ValueError, 'of x reports no token usage'):
      _steps(response)

  def test_a_withheld_answer_is_refused(self):
    details = _Fields(cached_tokens=8)
    with self.assertRaisesRegex(
        engine_lib.Refused, "x .*'content_filter'"
    ) as caught:
      _steps(_response('ab', finish='content_filter', details=details))
    # The server has read and written all the same, and says how much.
    self.assertEqual(caught.exception.billed, (types.Usage(0, 2, 8, 2),))
    self.assertFalse(caught.exception.may_be_billed)


class SameTextTest(parameterized.TestCase):

  @parameterized.parameters(
      ('ab', 'ab'), ('ab', 'ab\n\nc'), (' é\ufffd', 'é'), ('', 'a')
  )
  def test_the_tokens_spell_the_text(self, text, decoded):
    openai_responses.check_same_text(text, decoded, 'x')

  def test_tokens_of_another_vocabulary_are_an_error(self):
    with self.assertRaisesRegex(ValueError, "of x wrote 'ab', .* spell 'cd'"):
      openai_responses.check_same_text('ab', 'cd', 'x')


class SpreadTest(parameterized.TestCase):

  @parameterized.parameters(
      ('abc', ['a', 'bc'], ['a', 'bc']),
      ('abcd', ['token_id:1', 'token_id:2'], ['ab', 'cd']),
      ('é', ['\ufffd', ''], ['é', '']),
      ('ab\n\n', ['ab', '\n'], ['ab', '\n\n']),
      ('ab', ['\n', '\na', 'b', '#', '#'], ['', 'a', 'b', '', '']),
      ('', ['a', 'b'], ['', '']),
      ('ab', ['', ''], ['', 'ab']),
  )
  def test_spells_the_text_in_as_many_pieces(self, text, pieces, expected):
    self.assertEqual(openai_responses.spread(text, pieces), expected)


class FaultTest(absltest.TestCase):

  def test_a_question_that_a_moderator_refuses_stops_no_run(self):
    response = httpx.Response(403, request=httpx.Request('POST', 'http://a'))
    for body, kind in (
        ({'metadata': {'reasons': ['violence']}}, engine_lib.Refused),
        ({'metadata': None}, engine_lib.Stop),
        (None, engine_lib.Stop),
    ):
      error = openai.APIStatusError('no', response=response, body=body)
      self.assertIs(type(openai_faults.read_fault(error, 'x')), kind)


class RetryAfterTest(parameterized.TestCase):

  def test_reads_a_date(self):
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
    date = email.utils.format_datetime(then, usegmt=True)
    self.assertAlmostEqual(
        openai_faults.retry_after({'retry-after': date}), 90.0, delta=10.0
    )

  @parameterized.parameters(
      ({}, 0.0),
      ({'retry-after': '1.5'}, 1.5),
      ({'retry-after': '-1'}, 0.0),
      ({'retry-after': 'soon'}, 0.0),
      ({'retry-after-ms': '250', 'retry-after': '1'}, 0.25),
  )
  def test_reads_seconds(self, headers, expected):
    self.assertEqual(openai_faults.retry_after(headers), expected)


if __name__ == '__main__':
  absltest.main()
