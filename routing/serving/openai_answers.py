"""Responses in the form of OpenAI's API, with a field `routing` besides."""

from collections.abc import Sequence
import dataclasses
import time
from typing import Any

from routing import types
from routing.serving import answering
from routing.serving import logprobs
from routing.serving import points as points_lib
from routing.serving import stop_strings
from routing.serving import writing as writing_lib


@dataclasses.dataclass
class Answer:
  """An answer as far as it was read for the client.

  question, writing: see `serving.writing`.
  text: what the client gets, up to a stop string.
  held: what follows in the text, but may begin a stop string.
  is_stopped: whether a stop string has ended the answer.
  num_sent: number of steps that were sent.
  tokens: those that were not sent yet, where the client wants them.
  """

  question: writing_lib.Question
  writing: writing_lib.Writing
  text: str = ''
  held: str = ''
  is_stopped: bool = False
  num_sent: int = 0
  tokens: list[logprobs.Token] = dataclasses.field(default_factory=list)

  def add(self, text: str, stops: Sequence[str]) -> str:
    """Adds to the answer; returns what can now be sent of it."""
    whole = self.held + text
    at = stop_strings.end(whole, stops)
    self.is_stopped = at is not None
    if at is None:
      at = stop_strings.sure(whole, stops)
    self.held = '' if self.is_stopped else whole[at:]
    self.text += whole[:at]
    return whole[:at]

  def flush(self) -> str:
    """Returns what was held back, when nothing follows any more."""
    held, self.held = self.held, ''
    self.text += held
    return held

  def due(self, *, is_over: bool = False) -> list[logprobs.Token]:
    """Returns the tokens that belong to the text so far, each once.

    A token that a stop string cuts in two belongs to the text.

    Args:
      is_over: whether nothing follows in the text.
    """
    end, is_whole = len(self.text), is_over and not self.is_stopped
    count = sum(is_whole or token.offset < end for token in self.tokens)
    due, self.tokens = self.tokens[:count], self.tokens[count:]
    return due

  @property
  def finish_reason(self) -> str:
    """Why the answer has ended, in OpenAI's words."""
    steps = self.writing.record.steps
    is_whole = self.is_stopped or (bool(steps) and steps[-1].is_final)
    return 'stop' if is_whole else 'length'


class Format:
  """Puts the answers to one request into the form of OpenAI's responses.

  Args:
    service: answers.
    id_: of the response.
    is_chat: whether it is of `/v1/chat/completions`.
    wants_logprobs: whether each token has its log-probability.
  """

  def __init__(
      self,
      service: answering.Service,
      id_: str,
      *,
      is_chat: bool,
      wants_logprobs: bool,
  ):
    self._service, self._id, self._is_chat = service, id_, is_chat
    self._wants_logprobs = wants_logprobs
    self._created = int(time.time())

  def whole(
      self, answers: Sequence[Answer]
  ) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the body and the headers of a response that is no stream."""
    kind = 'chat.completion' if self._is_chat else 'text_completion'
    choices = []
    for index, answer in enumerate(answers):
      start = 0
      for step in answer.writing.record.steps:
        self._note(answer, step, start)
        start += len(step.text)
      choice = self._choice(index, answer.due(is_over=True))
      choice['finish_reason'] = answer.finish_reason
      if self._is_chat:
        choice['message'] = {
            'role': 'assistant',
            'content': answer.text,
            'refusal': None,
        }
      else:
        choice['text'] = answer.text
      choices.append(choice)
    sums = self.routing(answers)
    body = self._head(kind, answers[0]) | {
        'choices': choices,
        'usage': _usage(answers),
        'routing': sums,
    }
    return body, self._headers(answers, sums)

  def step(
      self, index: int, answer: Answer, step: types.Step, stops: Sequence[str]
  ) -> dict[str, Any]:
    """Returns the chunk of a step, and adds the step to its answer."""
    self._note(answer, step, len(answer.text) + len(answer.held))
    choice = self._delta(index, answer, answer.add(step.text, stops))
    row = answer.writing.record.row(answer.num_sent, step)
    answer.num_sent += 1
    return self._chunk(answer, [choice]) | {'routing': {'step': row}}

  def end(
      self, index: int, answer: Answer, answers: Sequence[Answer]
  ) -> dict[str, Any]:
    """Returns the last chunk of an answer, and of all `answers` if given."""
    text = answer.flush()
    choice = self._delta(index, answer, text, is_over=True)
    choice['finish_reason'] = answer.finish_reason
    chunk = self._chunk(answer, [choice])
    if answers:
      chunk |= {'usage': _usage(answers), 'routing': self.routing(answers)}
    return chunk

  def sums(self, answers: Sequence[Answer]) -> dict[str, Any]:
    """Returns a chunk after all others, with no choice, for the sums."""
    return self._chunk(answers[0], []) | {
        'usage': _usage(answers),
        'routing': self.routing(answers),
    }

  def routing(self, answers: Sequence[Answer]) -> dict[str, Any]:
    """Returns the field `routing`: one answer, or the sums of several."""
    found = [self._routing(answer) for answer in answers]
    if len(found) == 1:
      return found[0]
    return {
        'cost': _sums([x['cost'] for x in found]),
        'large_alone': _sums([x['large_alone'] for x in found]),
        'wasted_tokens': sum(x['wasted_tokens'] for x in found),
        'overhead_ms': sum(x['overhead_ms'] for x in found),
        'choices': found,
    }

  def _headers(
      self, answers: Sequence[Answer], sums: dict[str, Any]
  ) -> dict[str, str]:
    """Returns the headers of a response with this field `routing`."""
    metric = self._service.router.card.metric
    return {
        'x-routing-model': answers[0].writing.choice.name,
        'x-routing-route': ';'.join(x.writing.record.route for x in answers),
        'x-routing-metric': metric,
        'x-routing-cost': f'{sums["cost"][metric]:.6g}',
        # Of latency there is no estimate.
        'x-routing-cost-large-alone': (
            '' if (x := sums['large_alone'][metric]) is None else f'{x:.6g}'
        ),
        'x-routing-overhead-ms': f'{sums["overhead_ms"]:.3f}',
    }

  def _routing(self, answer: Answer) -> dict[str, Any]:
    """Returns what is known of one answer."""
    record, question = answer.writing.record, answer.question
    choice, rows = answer.writing.choice, record.rows()
    return {
        'id': question.id,
        'model': choice.name,
        'fall_back': None if choice is question.choice else choice.name,
        'fall_back_reason': answer.writing.reason,
        **_promise(answer, self._service),
        'seed': question.seed,
        'metric': self._service.router.card.metric,
        'cost': record.cost(),
        'large_alone': answer.writing.large_alone,
        'wasted_tokens': record.wasted_tokens,
        'overhead_ms': round(1_000 * record.overhead, 3),
        'steps': rows,
    }

  def _head(self, kind: str, answer: Answer) -> dict[str, Any]:
    """Returns the fields with which every body begins."""
    return {
        'id': self._id,
        'object': kind,
        'created': self._created,
        'model': answer.writing.choice.name,
    }

  def _chunk(
      self, answer: Answer, choices: list[dict[str, Any]]
  ) -> dict[str, Any]:
    """Returns a chunk of a stream."""
    kind = 'chat.completion.chunk' if self._is_chat else 'text_completion'
    return self._head(kind, answer) | {'choices': choices, 'usage': None}

  def _delta(
      self, index: int, answer: Answer, text: str, *, is_over: bool = False
  ) -> dict[str, Any]:
    """Returns the choice of a chunk."""
    choice = self._choice(index, answer.due(is_over=is_over))
    if not self._is_chat:
      return choice | {'text': text}
    role = {} if answer.num_sent else {'role': 'assistant'}
    return choice | {'delta': {**role, 'content': text}}

  def _note(self, answer: Answer, step: types.Step, start: int) -> None:
    """Notes the tokens of a step that begins at `start` in its answer."""
    if self._wants_logprobs:
      engine = self._service.engines[step.route]
      answer.tokens += logprobs.of_step(engine, step, start)

  def _choice(
      self, index: int, tokens: Sequence[logprobs.Token]
  ) -> dict[str, Any]:
    """Returns what all choices have, with these tokens if they are wanted."""
    choice = {'index': index, 'finish_reason': None, 'logprobs': None}
    if self._wants_logprobs:
      form = logprobs.of_chat if self._is_chat else logprobs.of_text
      choice['logprobs'] = form(tokens)
    return choice


def _promise(answer: Answer, service: answering.Service) -> dict[str, Any]:
  """Returns what is promised of an answer, and why perhaps it is not."""
  point = answer.writing.choice.point
  found = points_lib.describe(point, service.unpromised)
  if found is None:
    return {'promise': None}
  broken = service.why_void(point, answer.question.sampling)
  if broken is None and answer.is_stopped:
    broken = 'A stop string has ended the answer.'
  return {'promise': found | {'holds': broken is None, 'why_not': broken}}


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
  """Returns OpenAI's sums of tokens: those of the questions and the answers.

  What all models read and wrote besides, drafts included, is in `routing`.
  """
  # The `n` answers to one question read it once, as the client sees it.
  prompt = sum(
      x.writing.record.prompt_tokens for x in answers if not x.question.sample
  )
  completion = sum(x.writing.record.completion_tokens for x in answers)
  return {
      'prompt_tokens': prompt,
      'completion_tokens': completion,
      'total_tokens': prompt + completion,
  }


def _sums(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns metric -> sum; None where one of the values is not known."""
  return {
      metric: None
      if any(x[metric] is None for x in costs)
      else sum(x[metric] for x in costs)
      for metric in costs[0]
  }
