"""Decides at a trace that a client sends, without writing anything."""

import inspect
from typing import Any

import numpy as np

from routing import types
from routing.serving import answering
from routing.serving import openai_schema
from routing.serving import refusals


async def decide(
    service: answering.Service, body: openai_schema.Decision
) -> dict[str, Any]:
  """Returns the decision of the router that `body` names, JSON-like.

  Raises:
    refusals.Refusal: if the trace is not one that the router can see.
  """
  refusals.check_question(
      body.question, service.settings.max_question_characters, 'question'
  )
  choice = service.choose(body)
  if choice.alone is not None:
    raise refusals.invalid(
        'model', f'{body.model} decides nothing; name a point.'
    )
  trace = _trace(service, body, choice.protocol.has_draft)
  try:
    decision = choice.router.decide(trace)
    if inspect.isawaitable(decision):  # Of a batch, or of this router alone.
      decision = await decision
  except ValueError as error:
    raise refusals.invalid('steps', str(error)) from error
  service.metrics.decisions.labels(service.specs[decision.route].name).inc()
  return {
      'object': 'routing.decision',
      'model': choice.name,
      'route': decision.route,
      'writer': service.specs[decision.route].name,
      'score': decision.score,
      'threshold': choice.threshold_at(len(trace.steps)),
  }


def _trace(
    service: answering.Service, body: openai_schema.Decision, has_draft: bool
) -> types.Trace:
  """Returns the trace, which leads back to those of earlier decisions.

  Raises:
    refusals.Refusal: if something is missing, or too much.
  """
  needed = len(body.steps) if service.router.has_memory else 0
  if len(body.earlier) not in {needed, len(body.steps)}:
    raise refusals.invalid(
        'earlier',
        f'There are {len(body.steps)} steps and {len(body.earlier)} earlier '
        'decisions. There must be one for each step; none will do where the '
        'router does not remember.',
    )
  steps = tuple(
      _step(service, given, f'steps[{i}]') for i, given in enumerate(body.steps)
  )
  trace = None
  for i, seen in enumerate([*body.earlier, body]):
    is_last = seen is body
    where = 'draft' if is_last else f'earlier[{i}].draft'
    if has_draft != (seen.draft is not None):
      wanted = 'needs the draft' if has_draft else 'has no draft'
      raise refusals.invalid(
          where, f'The protocol of this router {wanted} of each step.'
      )
    trace = types.Trace(
        question=body.question,
        steps=steps if is_last else steps[:i],
        draft=None if seen.draft is None else _step(service, seen.draft, where),
        spent=seen.spent,
        previous=trace,
    )
  return trace


def _step(
    service: answering.Service, given: openai_schema.StepGiven, where: str
) -> types.Step:
  """Returns a step of the trace."""
  names = [spec.name for spec in service.specs]
  if given.model not in names:
    raise refusals.invalid(
        f'{where}.model',
        f'{given.model[:100]!r} is no model; allowed: {", ".join(names)}.',
    )
  counts = {len(given.log_probs), len(given.top_log_probs)} - {0}
  if counts - {given.tokens} or len({len(x) for x in given.top_log_probs}) > 1:
    raise refusals.invalid(
        f'{where}.log_probs',
        f'There must be none, or one for each of the {given.tokens} tokens; '
        'top_log_probs has equally many for each.',
    )
  top = np.array(given.top_log_probs, np.float32)
  return types.Step(
      text=given.text,
      # Which tokens they are plays no part, only how many.
      token_ids=(0,) * given.tokens,
      log_probs=np.array(given.log_probs, np.float32),
      top_log_probs=top.reshape(len(given.top_log_probs), -1)
      if given.top_log_probs
      else np.zeros((given.tokens, 0), np.float32),
      is_final=False,
      usage=types.Usage(names.index(given.model), 0, 0, given.tokens),
      hidden=None
      if given.hidden is None
      else np.array(given.hidden, np.float32),
  )
