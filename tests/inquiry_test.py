"""A router that asks before it decides, with scripted engines."""

import asyncio
import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import scripted
from routing.grading import equivalence
from routing.rollout import driver
from routing.rollout import step_requests
from routing.routers import informants
from routing.tasks import prompt as prompt_lib
from tests import scripted_pair

_SCORER = costs.RouteSpec('scorer', 500, 1, 4, 0.5, 0.05, 0.0)
_ACCOUNTING = costs.Accounting(
    scripted_pair.SPECS[:2] + (_SCORER,), 'price', reference=1e-6
)


class _Scorer:
  """Scores a draft 1 if it has an 'o' in it, and reads each character."""

  async def ask(self, trace, inquiry):
    inquiry.charge(types.Usage(2, len(trace.draft.text), 0, 0))
    return (float('o' in trace.draft.text),)


class _Glimpse:
  """Probes one token of the model of each route."""

  async def ask(self, trace, inquiry):
    (small,), (large,) = await inquiry.write(0, 1), await inquiry.write(1, 1)
    return float(small.log_probs[0]), float(ord(large.text))


class _Nothing:

  async def ask(self, trace, inquiry):
    return ()


@dataclasses.dataclass
class _Threshold:
  """Has the large model write where the evidence is below the threshold."""

  informant: object
  threshold: float = 0.5
  seen: list[types.Trace] = dataclasses.field(default_factory=list)

  def decide(self, trace):
    self.seen.append(trace)
    score = 1.0 - trace.evidence[0]
    return types.Decision(int(score >= self.threshold), score)


def _answer(
    router,
    protocol,
    small='no\n\nyes\n\n#### 4',
    large='No\n\n#### 3',
    engines=None,
):
  engines = engines or [
      scripted.ScriptedEngine('s', 0, scripted.recite(small)),
      scripted.ScriptedEngine('l', 1, scripted.recite(large)),
  ]
  return asyncio.run(
      driver.answer(
          types.Problem('p', 'q', '3'),
          router,
          engines,
          protocol=protocol,
          accounting=_ACCOUNTING,
          grade=equivalence.exact,
          seed=0,
          sampling=step_requests.Sampling(max_decisions=4),
      )
  )


class InquiryTest(parameterized.TestCase):

  def test_a_score_of_each_draft_is_seen_and_charged(self):
    router = _Threshold(_Scorer())
    got = _answer(router, protocols.Protocol('redraft'))
    # 'no' is kept; 'yes' has no 'o' and is rewritten, which ends the answer.
    self.assertEqual(got.text, 'no\n\n#### 3')
    self.assertEqual([x.evidence for x in router.seen], [(1.0,), (0.0,)])
    # At the second decision the router still finds what was said at the first.
    self.assertEqual(router.seen[1].previous.evidence, (1.0,))
    calls = [(x.kind, x.route, x.read, x.cached, x.written) for x in got.calls]
    self.assertEqual(
        calls,
        [
            ('draft', 0, 1, 0, 4),  # Reads q, writes 'no\n\n'.
            ('probe', 2, 4, 0, 0),
            ('draft', 0, 0, 5, 5),
            ('probe', 2, 5, 0, 0),
            ('step', 1, 5, 0, 6),  # Reads q and 'no\n\n'.
        ],
    )
    # Price per token: 0.2, 0.02, 1 of the small model; 0.5 of the scorer. The
    # second draft is charged before its own decision, and so is its score.
    draft = 0.2 * 1 + 1.0 * 4
    again = 0.02 * 5 + 1.0 * 5
    np.testing.assert_allclose(
        [x.spent for x in router.seen],
        [draft + 0.5 * 4, draft + 0.5 * 4 + again + 0.5 * 5],
    )

  def test_a_probe_of_one_token_is_no_part_of_the_answer(self):
    router = _Threshold(_Glimpse(), threshold=1.4)
    got = _answer(router, protocols.Protocol('switch'))
    self.assertEqual(got.text, 'No\n\n#### 3')
    # The scripted log-probability is -.5, so the score of both is 1.5.
    self.assertEqual(router.seen[0].evidence, (-0.5, float(ord('N'))))
    self.assertEqual(
        [(x.kind, x.route, x.read, x.written) for x in got.calls],
        [
            ('probe', 0, 1, 1),
            ('probe', 1, 1, 1),
            # The large model finds the question in its cache.
            ('step', 1, 0, 4),
            ('probe', 0, 4, 1),
            ('probe', 1, 0, 1),
            ('step', 1, 0, 6),
        ],
    )

  def test_a_question_in_words_is_charged_in_whole(self):
    asked = []

    class InWords:

      async def ask(self, trace, inquiry):
        asked.append(f'Is {trace.draft.text!r} right?')
        return (float(await inquiry.ask(1, asked[-1], 1) == 'Y'),)

    def large(request):
      if isinstance(request.question, prompt_lib.Plain):
        return 'Yes' if 'no' in request.question else 'No'
      return 'No\n\n#### 3'[len(request.trace) :]

    router = _Threshold(InWords())
    engines = [
        scripted.ScriptedEngine('s', 0, scripted.recite('no\n\nyes\n\n#### 4')),
        scripted.ScriptedEngine('l', 1, large),
    ]
    got = _answer(router, protocols.Protocol('redraft'), engines=engines)
    self.assertEqual(got.text, 'no\n\n#### 3')
    self.assertEqual(
        [
            (x.route, x.read, x.cached, x.written)
            for x in got.calls
            if x.kind == 'probe'
        ],
        [(1, len(x), 0, 1) for x in asked],
    )

  def test_of_questions_in_words_a_common_beginning_counts_as_cached(self):
    informant = informants.InWords(
        lambda trace: f'Grade the end: {trace.text}{trace.draft.text}',
        lambda reply: float(reply == 'Y'),
        route=1,
    )

    def large(request):
      if isinstance(request.question, prompt_lib.Plain):
        return 'No' if 'yes' in request.question else 'Yes'
      return 'No\n\n#### 3'[len(request.trace) :]

    engines = [
        scripted.ScriptedEngine('s', 0, scripted.recite('no\n\nyes\n\n#### 4')),
        scripted.ScriptedEngine('l', 1, large),
    ]
    got = _answer(
        _Threshold(informant), protocols.Protocol('redraft'), engines=engines
    )
    self.assertEqual(got.text, 'no\n\n#### 3')
    # The second text is the first one and 'yes\n\n'; a token is a character.
    first = len('Grade the end: no\n\n')
    self.assertEqual(
        [
            (x.route, x.read, x.cached, x.written)
            for x in got.calls
            if x.kind == 'probe'
        ],
        [(1, first, 0, 1), (1, len('yes\n\n'), first, 1)],
    )

  def test_a_plain_text_is_put_without_the_words_of_the_task(self):
    prompt = prompt_lib.Prompt('Solve {question}', 'Be brief.', [('1', 'one')])
    put = prompt_lib.Plain('Is it {question}?')
    self.assertEqual(
        prompt.messages(put), [{'role': 'user', 'content': 'Is it {question}?'}]
    )
    self.assertEqual(prompt.text(put), 'Is it {question}?')
    self.assertLen(prompt.messages('Is it {question}?'), 4)

  def test_no_evidence_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '_Nothing returned no evidence'):
      _answer(_Threshold(_Nothing()), protocols.Protocol('switch'))


if __name__ == '__main__':
  absltest.main()
