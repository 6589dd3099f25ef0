"""Sends generated requests to the service, and compares with its description.

Run: python -m benchmarks.schema_cases --config=configs/arithmetic.py

Requests are made from the OpenAPI description of the service: as it allows
them, and with one thing that it does not. In some, models and questions are
real ones, so that answers are written as well. Prints JSON last: the number of
cases, of responses by status, of those from 500 on, and of those that are not
as the description says; and the first of these.
"""

import collections
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import re
import socket
import subprocess
import sys
import time
from typing import Any

from absl import flags
import httpx
import hypothesis
from hypothesis import strategies
from ml_collections import config_flags
import requests
import schemathesis
from schemathesis import checks as checks_lib
from schemathesis import openapi

from experiments import builders
from experiments import command_line

_REJECTION = 'negative_data_rejection'
# Where no more is known of a value than its type, most values are refused: so
# that valid data may be refused is no fault here.
_CHECKS = (
    'not_a_server_error',
    'status_code_conformance',
    'content_type_conformance',
    'response_headers_conformance',
    'response_schema_conformance',
    _REJECTION,
    'missing_required_header',
    'unsupported_method',
)
_SHOWN = 10  # Faults that are printed.


@dataclasses.dataclass
class Found:
  """What came of the cases.

  statuses: status -> number of responses.
  faults: each with the request and what was wrong.
  ids: of answers that have had no feedback.
  """

  statuses: collections.Counter = dataclasses.field(
      default_factory=collections.Counter
  )
  faults: list[str] = dataclasses.field(default_factory=list)
  ids: list[str] = dataclasses.field(default_factory=list)

  def summary(self) -> dict[str, Any]:
    """Returns the figures that are printed."""
    return {
        'cases': self.statuses.total(),
        'statuses': dict(sorted(self.statuses.items())),
        'server_errors': sum(
            count for status, count in self.statuses.items() if status >= 500
        ),
        'faults': len(self.faults),
        'first_faults': self.faults[:_SHOWN],
    }


def run(
    url: str, num_cases: int, questions: Sequence[str], seed: int = 0
) -> Found:
  """Sends cases to a service, as many for each operation and kind.

  Args:
    url: of the service.
    num_cases: number of requests, rounded up to as many of each kind.
    questions: that its models can answer.
    seed: of what is generated.
  """
  schema = openapi.from_url(f'{url}/openapi.json')
  models = [x['id'] for x in httpx.get(f'{url}/v1/models').json()['data']]
  operations = [x.ok() for x in schema.get_all_operations()]
  # Where nothing can vary, a few cases are enough.
  fixed = [x for x in operations if not (x.body or x.path_parameters)]
  kinds = [
      (operation, mode)
      for operation in operations
      for mode in schemathesis.GenerationMode
      # Any text may stand in a path, and be no model's name.
      if operation.body or operation.path_parameters and mode.is_positive
  ]
  each = max(-(-(num_cases - len(fixed)) // len(kinds)), 1)
  found = Found()
  with requests.Session() as session:
    for operation in fixed:
      _check(operation.Case(), session, found)
    for operation, mode in kinds:
      _send(operation, mode, each, models, questions, seed, session, found)
  return found


def _send(
    operation: Any,
    mode: Any,
    count: int,
    models: Sequence[str],
    questions: Sequence[str],
    seed: int,
    session: requests.Session,
    found: Found,
) -> None:
  """Sends cases of one kind to one operation."""
  fields = _fields(operation)
  num_sent = 0

  @hypothesis.seed(seed)
  @hypothesis.settings(
      max_examples=2 * count,  # Some are drawn twice.
      deadline=None,
      database=None,
      phases=[hypothesis.Phase.generate],
      suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(
      case=operation.as_strategy(generation_mode=mode),
      model=strategies.sampled_from([None, *models]),
      question=strategies.sampled_from([None, *questions]),
      kept=strategies.none()
      | strategies.frozensets(strategies.sampled_from(fields), max_size=2),
  )
  def send(case, model, question, kept):
    nonlocal num_sent
    if num_sent == count:
      return
    num_sent += 1
    if mode.is_positive and model is not None and case.path_parameters:
      case.path_parameters['name'] = model
    if mode.is_positive and isinstance(case.body, dict):
      _make_real(case.body, models, model, question, kept)
      if 'id' in case.body and found.ids and kept is not None:
        case.body['id'] = found.ids.pop()
    _check(case, session, found)

  send()


def _fields(operation: Any) -> list[str]:
  """Returns the fields that the description of a body names."""
  if not operation.body:
    return ['name']
  described = operation.schema.raw_schema
  body = described['paths'][operation.path]['post']['requestBody']
  name = body['content']['application/json']['schema']['$ref'].split('/')[-1]
  return sorted(described['components']['schemas'][name]['properties'])


def _make_real(
    body: dict[str, Any],
    models: Sequence[str],
    model: str | None,
    question: str | None,
    kept: frozenset[str] | None,
) -> None:
  """Makes it likelier that a body is accepted.

  Args:
    body: is changed.
    models: all that exist; the last is a model alone.
    model: what the body asks for; None = as it is.
    question: its question; None = as it is.
    kept: fields that stay, besides those that are needed; None = all.
  """
  needed = ('model', 'messages', 'prompt', 'question', 'steps', 'draft', 'id')
  if kept is not None:
    for name in [x for x in body if x not in kept and x not in needed]:
      del body[name]
  if model is not None and 'model' in body:
    body['model'] = model
  if question is None:
    return
  for name, value in (
      ('messages', [{'role': 'user', 'content': question}]),
      ('prompt', question),
      ('question', question),
  ):
    if name in body:
      body[name] = value
  if 'question' in body:  # A trace.
    body['draft'] = body.get('draft') or {'text': 'x', 'tokens': 1}
    for step in [*body.get('steps', ()), body['draft']]:
      step |= {'model': models[-1], 'log_probs': [], 'top_log_probs': []}


def _check(case: Any, session: requests.Session, found: Found) -> None:
  """Sends a case, and notes what is not as the description says."""
  # The first answer waits until the models are compiled.
  response = case.call(session=session, timeout=300)
  # Schemathesis does not take 413, of a body that is too long, for a refusal.
  left_out = {_REJECTION} if response.status_code == 413 else set()
  checks = [
      checks_lib.CHECKS.get_one(name)
      for name in _CHECKS
      if name not in left_out
  ]
  found.statuses[response.status_code] += 1
  request = f'{case.method} {case.formatted_path}'
  try:
    case.validate_response(response, checks=checks)
  except* Exception as group:  # Of one check, or of several.
    reasons = '; '.join(map(str, group.exceptions))
    found.faults.append(
        f'{request} {json.dumps(case.body, default=str)[:500]} -> '
        f'{response.status_code}: {reasons}'[:2_000]
    )
  if case.path.endswith('completions') and response.status_code == 200:
    found.ids += set(re.findall(r'"id": ?"(\w*cmpl-[\w-]+)"', response.text))
  # The status of a stream is sent before its answer is written.
  if b'internal_error' in response.content and response.status_code < 500:
    found.faults.append(f'{request}: an error of the service in a stream')


@contextlib.contextmanager
def _served(config: str):
  """Serves a configuration with the shipped router; yields the address."""
  with socket.create_server(('127.0.0.1', 0)) as listener:
    port = listener.getsockname()[1]
  command = [sys.executable, '-m', 'experiments.serve', f'--config={config}']
  process = subprocess.Popen(
      [*command, f'--port={port}'], stderr=subprocess.DEVNULL
  )
  url = f'http://127.0.0.1:{port}'
  try:
    while process.poll() is None:
      with contextlib.suppress(httpx.TransportError):
        if httpx.get(f'{url}/ready').status_code == 200:
          yield url
          return
      time.sleep(0.2)
    raise ValueError(f'{" ".join(command)} has ended by itself.')
  finally:
    process.terminate()
    process.wait()


def main(config: Any, cases: int, seed: int) -> None:
  """Prints the figures."""
  questions = [x.question for x in builders.problems(config, 'test')[:20]]
  path = config_flags.get_config_filename(flags.FLAGS['config'])
  with _served(path) as url:
    found = run(url, cases, questions, seed)
  print(json.dumps(found.summary()))


if __name__ == '__main__':
  flags.DEFINE_integer('cases', 10_000, 'Number of requests.')
  flags.DEFINE_integer('seed', 0, 'Seed of what is generated.')
  command_line.run(main, 'config', 'cases', 'seed')
