"""Tests of steps that end with other things than a blank line."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from configs import arithmetic_redraft
from experiments import builders
from experiments import records_on_disk
from routing import protocols
from routing import types
from routing.engines import back_ends
from routing.engines import boundaries
from routing.engines import engine as engine_lib
from routing.engines import memoized
from routing.engines import openai_responses
from routing.engines import repetition
from routing.engines import route as route_lib
from routing.engines import scripted
from routing.engines import segmentation
from routing.grading import equivalence
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import steps as steps_lib
from routing.routers import fixed
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import registry

_SPACE = delimiter_lib.of(' ')
_LINE = delimiter_lib.of('\n')
_SENTENCE = delimiter_lib.of({'pattern': r'[.!?]\s+'})
_NUMBERED = delimiter_lib.of({'pattern': delimiter_lib.NUMBERED})
_SHORT = delimiter_lib.of({'max_tokens': 6})
_SHORT_LINE = delimiter_lib.of({'text': '\n', 'max_tokens': 4})
_SHORT_SENTENCE = delimiter_lib.of({'pattern': r'[.!?]\s+', 'max_tokens': 20})
_ALL = (_LINE, _SENTENCE, _NUMBERED, _SHORT, _SHORT_LINE, _SHORT_SENTENCE)

_ANSWER = (
    'Let me see.\n1. Two and two are 4.\nThat is even.\n2. Half of it is 2. '
    'So x = 2!\n3) ```\n1. in a listing.\n```\nStep 4: done.\n\n#### 2'
)


def _written(pieces, is_final):
  count = len(pieces)
  return segmentation.Written(
      pieces=pieces,
      token_ids=list(range(count)),
      log_probs=np.zeros(count, np.float32),
      top_log_probs=np.zeros((count, 0), np.float32),
      is_final=is_final,
  )


class _Model:
  """A back end that writes given tokens; it stops where it is told to."""

  def __init__(self, pieces):
    self._pieces, self.num_written = pieces, 0

  def at(self, start):
    """Returns the function that continues after `start` tokens."""

    position = start

    async def call(text, stop, max_tokens):
      nonlocal position
      found, new = [], text
      for piece in self._pieces[position : position + max_tokens]:
        found.append(piece)
        new += piece
        if stop and piece and new.endswith(stop):
          break
      self.num_written += len(found)
      position += len(found)
      is_final = position == len(self._pieces)
      usage = types.Usage(0, 0, 0, len(found), len(found) * 1.0)
      return _written(found, is_final), usage

    return call

  def steps(self, delimiter, max_tokens):
    """Writes one step after the other; returns them."""
    steps, start = [], 0
    while start < len(self._pieces) and max_tokens > 0:
      first, *_ = asyncio.run(
          segmentation.write_steps(
              self.at(start),
              to_end=False,
              max_tokens=max_tokens,
              delimiter=delimiter,
          )
      )
      steps.append(first)
      start += first.num_tokens
      max_tokens -= first.num_tokens
      if first.is_final or boundaries.is_cut(first):
        break
    return steps


class DelimiterTest(parameterized.TestCase):

  @parameterized.parameters(
      (
          _LINE,
          [
              'Let me see.\n',
              '1. Two and two are 4.\n',
              'That is even.\n',
              '2. Half of it is 2. So x = 2!\n',
              '3) ```\n',  # No fence: it does not begin its line.
              '1. in a listing.\n',
              '```\nStep 4: done.\n\n#### 2',
          ],
      ),
      (
          _NUMBERED,
          [
              'Let me see.\n',
              '1. Two and two are 4.\nThat is even.\n',
              '2. Half of it is 2. So x = 2!\n',
              '3) ```\n',
              '1. in a listing.\n',
              '```\nStep 4: done.\n\n#### 2',
          ],
      ),
  )
  def test_splits(self, delimiter, expected):
    self.assertEqual(boundaries.split(_ANSWER, delimiter), expected)

  @parameterized.parameters(
      ('A. B', ['A. ', 'B']),
      ('A.  B', ['A.  ', 'B']),  # As much white space as there is.
      ('A. ', ['A. ']),  # Nothing follows, so the step may go on.
      ('\n A. B! C', ['\n A. ', 'B! ', 'C']),
      ('$$ a. b $$ c. d', ['$$ a. b $$ c. ', 'd']),
      ('$$ a. b', ['$$ a. b']),
      ('1.5 a', ['1.5 a']),
      # Inline code is no listing, whatever stands in it.
      ('A\n```x. y``` z. B. C', ['A\n```x. ', 'y``` z. ', 'B. ', 'C']),
      ('A\n```\nx. y\n```\nz. B', ['A\n```\nx. y\n```\nz. ', 'B']),
  )
  def test_splits_at_a_pattern(self, text, expected):
    self.assertEqual(boundaries.split(text, _SENTENCE), expected)

  @parameterized.parameters(
      'x\n2. y', 'x\n (2) y', 'x\n**Step 2**: y', 'x\nStep 2: y', 'x\n10) y'
  )
  def test_knows_the_ways_to_number_steps(self, text):
    self.assertLen(boundaries.split(text, _NUMBERED), 2)

  def test_a_match_may_begin_a_step(self):
    by_pattern = delimiter_lib.of({'pattern': 'END\n'})
    for delimiter in (by_pattern, delimiter_lib.of('END\n')):
      self.assertEqual(
          boundaries.split('END\nEND\nb\nc', delimiter),
          ['END\n', 'END\n', 'b\nc'],
      )

  @parameterized.parameters(
      'x\n2.5 y', 'x\n2 y', 'x 2. y', 'x\n2024. y', 'x\n12: 30'
  )
  def test_a_number_alone_is_no_step(self, text):
    self.assertLen(boundaries.split(text, _NUMBERED), 1)

  def test_a_long_step_ends_before_a_word(self):
    pieces = ['a', ' b', ' cc', 'c', ' d', ' e', 'f', ' g', '']
    cut = segmentation.slices(pieces, _SHORT, is_final=True)
    self.assertEqual([x.text for x in cut], ['a b ccc d', ' ef g'])
    self.assertEqual([x.tokens for x in cut], [slice(0, 5), slice(5, 9)])
    self.assertEqual([x.is_complete for x in cut], [True, False])

  def test_no_step_is_blank(self):
    cut = segmentation.slices(
        ['\n', ' aaa', 'bbb', 'ccc', 'ddd', ' e', 'f', ' g'], _SHORT
    )
    self.assertEqual([x.text for x in cut], ['\n aaabbbcccddd', ' ef g'])

  @parameterized.parameters('\n', '\n\n')
  def test_no_step_ends_in_the_beginning_of_a_template(self, text):
    steps = asyncio.run(
        segmentation.write_steps(
            _Model(['Hm', ',', ' so', *text, 'Then', '']).at(0),
            to_end=False,
            max_tokens=99,
            opening='<think>\n',
            delimiter=delimiter_lib.of(text),
        )
    )
    self.assertEqual(steps[0].text, '<think>\nHm, so' + text)
    self.assertTrue(steps[0].is_complete)

  def test_a_long_step_of_one_word_ends_within_it(self):
    cut = segmentation.slices(list('abcdefgh'), _SHORT, is_final=True)
    self.assertEqual([x.text for x in cut], ['abcdef', 'gh'])

  @parameterized.parameters(*_ALL)
  def test_one_step_at_a_time_is_as_the_whole(self, delimiter):
    rng = np.random.default_rng(3)
    # No token has an end of a step within it: the next request could not
    # continue such a token.
    words = ['a', 'b', '.', ' ', '\n', '2', '!', '```\n', '$$', 'c', '1.', '']
    num_steps = 0
    for _ in range(400):
      pieces = rng.choice(words, size=rng.integers(1, 60)).tolist() + ['']
      for limit in (1000, int(rng.integers(1, 30))):
        text = ''.join(pieces[:limit])
        one_by_one = _Model(pieces).steps(delimiter, limit)
        whole = segmentation.to_steps(
            _written(pieces[:limit], limit >= len(pieces)),
            types.Usage(0, 0, 0, len(pieces[:limit])),
            delimiter,
        )
        got = [s.text for s in one_by_one if s.text]
        expected = [s.text for s in whole if s.text]
        # What the limit cuts off may be an end of a step to the next token.
        if limit < len(pieces) and delimiter.pattern:
          got, expected = got[:-1], expected[: len(got) - 1]
        self.assertEqual(got, expected, repr(text))
        num_steps += len(got)
    self.assertGreater(num_steps, 450)

  @parameterized.parameters(*_ALL)
  def test_text_written_in_vain_is_counted(self, delimiter):
    pieces = [c for c in _ANSWER] + ['']
    model = _Model(pieces)
    steps = model.steps(delimiter, 1000)
    self.assertEqual(''.join(s.text for s in steps), _ANSWER)
    self.assertTrue(steps[-1].is_final)
    if delimiter in (_LINE, _SHORT_LINE):
      return
    self.assertGreater(model.num_written, len(pieces))

  def test_the_charge_of_a_step_has_what_was_dropped(self):
    model = _Model([c for c in 'A b. C d. E'] + [''])
    steps = asyncio.run(
        segmentation.write_steps(
            model.at(0), to_end=False, max_tokens=99, delimiter=_SENTENCE
        )
    )
    request = engine_lib.Request(delimiter=_SENTENCE)
    (kept,) = openai_responses.kept_steps(steps, request, model.num_written, 4)
    self.assertEqual(kept.text, 'A b. ')
    self.assertEqual((kept.num_tokens, kept.usage.written), (5, 12))
    self.assertAlmostEqual(kept.usage.seconds, 12.0)

  @parameterized.parameters(
      ({'text': ''}, 'at least 1 character'),
      ({'text': '\n', 'pattern': 'x'}, 'one of them'),
      ({'pattern': '('}, 'no regular expression'),
      ({'pattern': 'x*'}, 'matches an empty text'),
      ({'max_tokens': -1}, 'allowed: 0, or at least 2'),
      ({'max_tokens': 1}, 'allowed: 0, or at least 2'),
      ({'max_tokens': '64'}, "max_tokens of a delimiter is '64'; allowed: int"),
      (64, 'task.delimiter is 64; allowed: a text, or a mapping'),
      ({'chars': 3}, "'chars'; allowed: text, pattern, max_tokens"),
  )
  def test_what_is_not_allowed_is_named(self, given, message):
    with self.assertRaisesRegex(ValueError, message):
      delimiter_lib.of(given)


class RepetitionTest(absltest.TestCase):

  def _kept(self, trace, delimiter, step):
    (step,) = segmentation.to_steps(
        _written(list(step), False),
        types.Usage(0, 0, 0, len(step)),
        delimiter,
    )
    return repetition.truncate_repetition([step], trace, 3, delimiter)

  def test_equal_lines_end_the_answer(self):
    self.assertTrue(self._kept('a\nb\nb\n', _LINE, 'b\n')[0].is_final)
    self.assertFalse(self._kept('a\nb\na\n', _LINE, 'b\n')[0].is_final)

  def test_equal_steps_without_a_mark_end_the_answer(self):
    self.assertTrue(self._kept('a b b b b', _SHORT, ' b b')[0].is_final)
    self.assertFalse(self._kept('a b b c b b', _SHORT, ' b b')[0].is_final)
    # As short a step may be the end of a longer one.
    self.assertFalse(self._kept('x = 1111', _SHORT, '1')[0].is_final)

  def test_line_breaks_without_end_end_the_answer(self):
    self.assertTrue(repetition.ends_in_blank_steps('a' + ' ' * 8, 4, _SPACE))
    self.assertFalse(repetition.ends_in_blank_steps('a' + ' ' * 7, 4, _SPACE))


class DriverTest(parameterized.TestCase):
  """Whole answers, by the driver that collects, evaluates and serves."""

  def _answer(self, delimiter, threshold_at, engines, max_tokens=1_000):
    return asyncio.run(
        driver.answer(
            types.Problem('p', 'q?', '2'),
            fixed.StepRouter(threshold_at),
            engines,
            protocol=protocols.Protocol('escalate'),
            accounting=None,
            grade=equivalence.exact,
            seed=0,
            sampling=step_requests.Sampling(
                max_decisions=30, max_tokens=max_tokens, delimiter=delimiter
            ),
        )
    )

  def _engines(self):
    return [
        scripted.ScriptedEngine('small', 0, scripted.recite(_ANSWER)),
        scripted.ScriptedEngine('large', 1, scripted.recite(_ANSWER)),
    ]

  @parameterized.parameters(*_ALL)
  def test_hands_over_between_steps(self, delimiter):
    got = self._answer(delimiter, 2, self._engines())
    self.assertEqual(steps_lib.join(got.steps), _ANSWER)
    cut = segmentation.slices(_ANSWER, delimiter, is_final=True)
    self.assertEqual([s.text for s in got.steps], [x.text for x in cut])
    self.assertEqual([s.route for s in got.steps[:3]], [0, 0, 1])
    self.assertTrue(got.is_correct)

  def test_an_answer_that_a_limit_cuts_goes_no_further(self):
    got = self._answer(_LINE, 9, self._engines(), max_tokens=20)
    self.assertEqual(steps_lib.join(got.steps), _ANSWER[:20])
    self.assertTrue(boundaries.is_cut(got.steps[-1]))

  def test_replies_are_remembered(self):
    small, large = self._engines()
    memory = memoized.Memory()
    engines = [memoized.MemoizedEngine(small, memory), large]
    first = self._answer(_SHORT, 9, engines)
    asked = engines[0].num_asked
    again = self._answer(_SHORT, 9, engines)
    self.assertEqual(engines[0].num_asked, asked)
    self.assertEqual(
        [s.text for s in first.steps], [s.text for s in again.steps]
    )


class RouteTest(parameterized.TestCase):
  """Which back ends can end steps in which way."""

  @parameterized.parameters(
      ('embedded', {}, '\n', 'a blank line'),
      ('openai', {'mode': 'instruct'}, {'max_tokens': 64}, 'allowed: a text'),
      ('openai', {'mode': 'instruct'}, {'pattern': 'x'}, 'allowed: a text'),
      ('openai', {}, {'max_tokens': 64}, 'num_log_probs 0'),
  )
  def test_what_a_back_end_cannot_do_is_refused(
      self, engine, settings, delimiter, message
  ):
    if engine == 'openai':
      settings = dict(base_url='http://x/v1', **settings)
    route = route_lib.Route('r', engine, 'm', settings=settings)
    with self.assertRaisesRegex(ValueError, message):
      back_ends.check_delimiter(route, delimiter_lib.of(delimiter))

  def test_replies_need_a_text(self):
    config = arithmetic_redraft.get_config('smoke')
    records_on_disk.check(config)
    config.task.delimiter = dict(max_tokens=64)
    with self.assertRaisesRegex(ValueError, "data.kind is 'replies'"):
      records_on_disk.check(config)

  def test_the_blank_line_is_the_default(self):
    config = arithmetic_redraft.get_config('smoke')
    key = builders.task_key(config)
    config.task.delimiter = '\n\n'
    self.assertEqual(builders.task_key(config), key)


class TaskTest(absltest.TestCase):

  def test_records_of_before_stay_valid(self):
    sampling = step_requests.Sampling()
    key = delimiter_lib.settings_key(collect.Plan(sampling, seed=0))
    self.assertNotIn('delimiter', key['sampling'])
    other = dataclasses.replace(sampling, delimiter=_LINE)
    key = delimiter_lib.settings_key(other)
    self.assertEqual(key['delimiter']['text'], '\n')

  def test_every_task_may_set_its_delimiter(self):
    task = registry.make('arithmetic', delimiter={'max_tokens': 64})
    self.assertEqual(task.delimiter.max_tokens, 64)
    self.assertEqual(registry.make('arithmetic').delimiter.text, '\n\n')

  def test_the_parts_of_a_mixture_have_one(self):
    part = dict(name='gsm8k', share=0.5)
    with self.assertRaisesRegex(ValueError, 'several delimiters'):
      registry.make('mixture', parts=[part, {**part, 'delimiter': '\n'}])


if __name__ == '__main__':
  absltest.main()
