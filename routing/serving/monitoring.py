"""What a service shows of itself: metrics for Prometheus, a log in JSON."""

from collections.abc import Mapping
from collections.abc import Sequence
import contextvars
import functools
import json
import logging
import re
import sys
import time
from typing import Any
from typing import TextIO

import prometheus_client

from routing.serving import record as record_lib

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_SHORT = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
# As most providers write keys, and as every request carries one.
_SECRET = re.compile(r'\bsk-[\w-]+|(?<=Bearer )[^\s"\\]+')
LOG = logging.getLogger('routing.serving')
# Id of the request that a task works for; tasks that it starts inherit it.
REQUEST_ID: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    'request_id', default=None
)
# With options of its own, `json.dumps` would make an encoder for each call.
_DUMPS = json.JSONEncoder(default=str).encode


class Metrics:
  """The metrics of one service, in a registry of their own.

  Labels have few values: names of models and routes, never what a client sends.
  The cost saved in finished answers is `routing_large_alone_cost` minus
  `routing_cost`; what shadows and answers that were given up took besides is
  among `routing_tokens` only. Decisions per second are the rate of
  `routing_decisions`. The relative loss is estimated by `routing_losses` /
  `routing_graded_shadows`.
  """

  def __init__(self):
    self.registry = prometheus_client.CollectorRegistry()
    self._of_answers()
    self._of_times()
    self._of_trouble()

  def _of_answers(self) -> None:
    """Defines what is counted of requests and answers."""
    make, counter = self._make, prometheus_client.Counter
    gauge = prometheus_client.Gauge
    self.requests = make(
        counter,
        'routing_requests',
        'Requests by endpoint and status.',
        ('endpoint', 'status'),
    )
    self.answers = make(
        counter,
        'routing_answers',
        'Answers by model asked for, and whether a larger model took part.',
        ('model', 'handed_over'),
    )
    self.unfinished = make(
        counter,
        'routing_unfinished_answers',
        'Answers that were given up: the client went away, or an error came.',
        ('reason',),
    )
    self.decisions = make(
        counter, 'routing_decisions', 'Decisions by route.', ('route',)
    )
    self.cost = make(
        counter,
        'routing_cost',
        'Cost of finished answers by metric, in its unit; without shadows.',
        ('metric',),
    )
    self.large_cost = make(
        counter,
        'routing_large_alone_cost',
        'Estimated cost of the largest model alone, for the same answers.',
        ('metric',),
    )
    self.tokens = make(
        counter,
        'routing_tokens',
        'Tokens by route and kind: read, cached, written; those of shadows and '
        'of answers that were given up too.',
        ('route', 'kind'),
    )
    self.wasted = make(
        counter,
        'routing_wasted_tokens',
        'Tokens written for nothing in finished answers.',
    )
    self.running = make(gauge, 'routing_running_answers', 'Being written.')
    self.waiting = make(gauge, 'routing_waiting_answers', 'In the queue.')

  def _of_times(self) -> None:
    """Defines the distributions."""
    self.batch = self._histogram(
        'routing_decision_batch', 'Decisions per call.', (1, 2, 4, 8, 16, 64)
    )
    self.first_token = self._histogram(
        'routing_time_to_first_token_seconds',
        'Until the first step is shown.',
        _SECONDS,
    )
    self.step = self._histogram(
        'routing_step_seconds', 'Time of a step by route.', _SECONDS, ('route',)
    )
    self.answer = self._histogram(
        'routing_answer_seconds', 'Time of a whole answer.', _SECONDS
    )
    self.overhead = self._histogram(
        'routing_overhead_seconds',
        'Time of an answer that no back end needed.',
        _SHORT,
    )

  def _of_trouble(self) -> None:
    """Defines what shows failures, and whether promises still hold."""
    make, counter = self._make, prometheus_client.Counter
    gauge = prometheus_client.Gauge
    self.back_end_errors = make(
        counter, 'routing_back_end_errors', 'Failures by route.', ('route',)
    )
    self.back_end_up = make(
        gauge, 'routing_back_end_up', '1 if it answers.', ('route',)
    )
    self.fall_backs = make(
        counter,
        'routing_fall_backs',
        'Answers by one model in place of the router.',
        ('reason',),
    )
    self.feedback = make(
        counter, 'routing_feedback', 'Feedback by grade.', ('correct',)
    )
    self.alarm = make(
        gauge, 'routing_drift_alarm', '1 once it is raised.', ('point',)
    )
    self.shadows = make(
        counter, 'routing_shadows', 'Answers of the largest model alone.'
    )
    self.graded_shadows = make(
        counter,
        'routing_graded_shadows',
        'Answers that were graded together with that of the largest model '
        'alone to the same question.',
        ('model',),
    )
    self.losses = make(
        counter,
        'routing_losses',
        'Those of them that are a loss; see `feedback`.',
        ('model',),
    )
    self.threshold = make(
        gauge, 'routing_online_threshold', 'The threshold of router@online.'
    )

  def add(
      self,
      model: str,
      record: record_lib.Record,
      names: Sequence[str],
      large_alone: Mapping[str, float | None],
  ) -> None:
    """Counts a finished answer.

    Args:
      model: what was asked for, a name of `points.Points.models`.
      record: of the answer.
      names: of the routes, smallest first.
      large_alone: see `answering.Service.large_alone`.
    """
    has_larger = any(step.route for step in record.steps)
    self.answers.labels(model, str(has_larger).lower()).inc()
    self.first_token.observe(record.first_step_after or 0.0)
    self.answer.observe(record.seconds or 0.0)
    self.overhead.observe(record.overhead)
    for step in record.steps:
      self.step.labels(names[step.route]).observe(float(step.usage.seconds))
    for route in record.decided_routes:
      self.decisions.labels(names[route]).inc()
    for metric, value in record.cost().items():
      self.cost.labels(metric).inc(value)
      # Where there is no estimate, nothing was saved as far as is known.
      estimate = large_alone[metric]
      self.large_cost.labels(metric).inc(
          value if estimate is None else estimate
      )
    self.wasted.inc(record.wasted_tokens)

  def text(self) -> tuple[bytes, str]:
    """Returns the metrics in Prometheus' format, and its content type."""
    return (
        prometheus_client.generate_latest(self.registry),
        prometheus_client.CONTENT_TYPE_LATEST,
    )

  def back_end(self, name: str, error: BaseException | None) -> None:
    """Notes that a back end has failed, or is back; for `back_ends.Health`."""
    self.back_end_up.labels(name).set(error is None)
    if error is None:
      log('back_end_up', route=name)
    else:
      self.back_end_errors.labels(name).inc()
      reason = f'{type(error).__name__}: {error}'[:500]
      log('back_end_down', level='ERROR', route=name, reason=reason)

  def _make(self, kind, name, text, labels=(), **kwargs):
    made = kind(name, text, labels, registry=self.registry, **kwargs)
    return _Labelled(made) if labels else made

  def _histogram(self, name, text, buckets, labels=()):
    return self._make(
        prometheus_client.Histogram, name, text, labels, buckets=buckets
    )


class _Labelled:
  """A metric with labels that remembers what belongs to which values.

  Every step counts in several of them, and prometheus_client checks and joins
  the values each time.

  Args:
    metric: the metric.
  """

  def __init__(self, metric: Any):
    self._labels = functools.cache(metric.labels)

  def labels(self, *values: str) -> Any:
    """Returns the metric of these values of its labels."""
    return self._labels(*values)


class _Json(logging.Formatter):
  """Writes a record as one line of JSON."""

  def format(self, record: logging.LogRecord) -> str:
    fields: Mapping[str, Any] = getattr(record, 'fields', {})
    line = {
        'time': time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))
        + f'.{int(record.msecs):03d}Z',
        'level': record.levelname,
        'event': record.getMessage(),
        **fields,
    }
    if record.name != LOG.name:
      line['logger'] = record.name
    if record.exc_info:
      line['trace'] = self.formatException(record.exc_info)
    # An error of another library may quote a key; no line of ours does.
    return _SECRET.sub('***', _DUMPS(line))


def set_up_log(stream: TextIO | None = None) -> None:
  """Sends all that is logged to a stream, one JSON object a line.

  Other libraries log in the same form, and no key that one of them quotes is
  shown.

  Args:
    stream: None = the error output.
  """
  handler = logging.StreamHandler(stream or sys.stderr)
  handler.setFormatter(_Json())
  root = logging.getLogger()
  # What was not shown before, such as how libraries start, still is not.
  for replaced in root.handlers:
    handler.filters += replaced.filters
  root.handlers = [handler]
  LOG.handlers, LOG.propagate = [], True
  LOG.setLevel(logging.INFO)


def log(
    event: str, *, level: str = 'INFO', is_error: bool = False, **fields: Any
) -> None:
  """Logs an event.

  Args:
    event: short name of what happened.
    level: of `logging`.
    is_error: also log the error that is being handled, with its trace.
    **fields: what belongs to it; never a question, an answer or a key. The id
      of the request that the task works for is added.
  """
  if (id_ := REQUEST_ID.get()) is not None:
    fields = {'request_id': id_} | fields
  LOG.log(
      logging.getLevelName(level),
      event,
      extra={'fields': fields},
      exc_info=is_error,
  )
