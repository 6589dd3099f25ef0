"""Spans of OpenTelemetry: of each request, answer, step and call of a back end.

Without a tracer nothing is done, and no package is needed. A span of a request
holds those of its answers; a span of an answer holds those of its steps and of
its calls, side by side, since a hand-over is one call for several steps, and a
draft one for a step that another model writes. Names of attributes are those of
OpenTelemetry's semantic conventions for HTTP and generative models where there
is one. No span has a question, an answer, or a key.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import time
from typing import Any

from routing import costs
from routing import types
from routing.rollout import watching
from routing.serving import record as record_lib

_NAME = 'stepwise-routing'


class Request:
  """The span of a request; it takes what becomes known of the request.

  Args:
    span: the span; None = there is none.
  """

  def __init__(self, span: Any = None):
    self._span = span

  def trace_id(self) -> dict[str, str]:
    """Returns the trace's id for the log line; nothing without a span."""
    if self._span is None:
      return {}
    return {'trace_id': f'{self._span.get_span_context().trace_id:032x}'}

  def end(self, status: int, log: Mapping[str, Any]) -> None:
    """Notes how the request has ended.

    Args:
      status: of HTTP; 0 = none was sent.
      log: what its log line has besides.
    """
    if self._span is None:
      return
    self._span.set_attributes(
        {'http.response.status_code': status}
        | _flat('gen_ai.usage', log.get('tokens', {}))
        | _flat('routing.cost', log.get('cost', {}))
        | {
            f'routing.{name}': log[name]
            for name in ('id', 'model', 'key', 'error')
            if name in log
        }
    )
    if status >= 500 or not status:
      _fail(self._span, str(status))


class Tracing:
  """Makes the spans of a service.

  Args:
    tracer: a tracer of OpenTelemetry; None = no spans.
    provider: what `close` shuts down; None = nothing.
  """

  def __init__(self, tracer: Any = None, provider: Any = None):
    self._tracer, self._provider = tracer, provider

  @contextlib.contextmanager
  def request(
      self, method: str, path: str, headers: Mapping[bytes, bytes]
  ) -> Iterator[Request]:
    """Spans a request; continues the trace of a header `traceparent`.

    Args:
      method: of HTTP.
      path: as metrics name it.
      headers: of the request, with names in lower case.

    Source: Trace Context of the W3C.
    """
    if self._tracer is None:
      yield Request()
      return
    from opentelemetry import trace
    from opentelemetry.trace.propagation import tracecontext

    given = {
        name: headers[name.encode()].decode('latin-1')
        for name in ('traceparent', 'tracestate')
        if name.encode() in headers
    }
    context = tracecontext.TraceContextTextMapPropagator().extract(given)
    with self._tracer.start_as_current_span(
        f'{method} {path}',
        context,
        kind=trace.SpanKind.SERVER,
        attributes={'http.request.method': method, 'http.route': path},
        # The message of an error may quote a question.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
      yield Request(span)

  @contextlib.contextmanager
  def answer(
      self,
      model: str,
      id_: str,
      record: record_lib.Record,
      specs: Sequence[costs.RouteSpec],
  ) -> Iterator[watching.Watcher]:
    """Spans one answer by one choice; yields what watches the driver.

    After a fall-back another answer begins, with a span of its own.

    Args:
      model: the name of what answers.
      id_: of the answer.
      record: follows the answer, with spans or without.
      specs: the models, smallest first.
    """
    if self._tracer is None:
      yield record
      return
    with self._tracer.start_as_current_span(
        f'answer {model}',
        attributes={'gen_ai.response.model': model, 'routing.id': id_},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
      watcher = Spans(self._tracer, span, record, specs)
      try:
        yield watcher
      except BaseException as error:  # A cancellation, too.
        watcher.fail(type(error).__name__)
        raise
      finally:
        watcher.end()

  def close(self) -> None:
    """Sends what was not sent yet; it may take some seconds."""
    if self._provider is not None:
      self._provider.shutdown()


OFF = Tracing()


class Spans(watching.Watcher):
  """Makes the spans of one answer, besides its record.

  Args:
    tracer: makes spans; that of the answer is the current one.
    span: of the answer.
    record: is told of everything first.
    specs: the models, smallest first.
  """

  def __init__(
      self,
      tracer: Any,
      span: Any,
      record: record_lib.Record,
      specs: Sequence[costs.RouteSpec],
  ):
    self._tracer, self._span, self._record = tracer, span, record
    self._specs = specs
    self._call: Any = None  # The span of the call in progress.
    self._since = time.time_ns()  # When the current step began.

  def asked(self, kind: str, route: int) -> None:
    """Begins the span of a call; see `watching.Watcher`."""
    self._record.asked(kind, route)
    self._call = self._start_call(kind, route)

  def told(self, place: int, step: types.Step) -> None:
    """Ends the span of a step, if it is shown; see `watching.Watcher`."""
    index = self._record.num_shown
    self._record.told(place, step)
    if self._record.num_shown > index:
      self._end_step(index, step)

  def called(self, call: types.Call) -> None:
    """Ends the span of a call; see `watching.Watcher`."""
    self._record.called(call)
    attributes = _usage(call) | _flat('routing.cost', self._cost(call))
    if call.kind == 'wasted':  # Written ahead, in a call that has ended.
      self._span.add_event('wasted', attributes)
      return
    span = self._call or self._start_call(call.kind, call.route)
    self._call = None
    span.set_attributes(attributes)
    span.end()

  def decided(self, trace: types.Trace, decision: types.Decision) -> None:
    """Notes a decision; see `watching.Watcher`."""
    self._record.decided(trace, decision)
    self._span.add_event(
        'decided',
        {
            'routing.step': len(trace.steps),
            'routing.score': float(decision.score),
            'routing.writer': self._specs[decision.route].name,
        },
    )

  def accepted(self, steps: Sequence[types.Step]) -> None:
    """Ends the spans of steps not shown before; see `watching.Watcher`."""
    first, shown = len(self._record.steps), self._record.num_shown
    self._record.accepted(steps)
    for index, step in enumerate(steps, first):
      if index >= shown:
        self._end_step(index, step)

  def fail(self, reason: str) -> None:
    """Notes the type of the error that ends the answer, and its call."""
    for span in (self._call, self._span):
      if span is not None:
        _fail(span, reason)

  def end(self) -> None:
    """Notes what the answer has cost, and ends what is open."""
    record = self._record
    if self._call is not None:
      self._call.end()
    self._span.set_attributes(
        {
            'routing.route': record.route,
            'routing.steps': len(record.steps),
            'gen_ai.usage.input_tokens': record.prompt_tokens,
            'gen_ai.usage.output_tokens': record.completion_tokens,
        }
        | _flat('routing.cost', record.cost())
    )

  def _start_call(self, kind: str, route: int) -> Any:
    from opentelemetry import trace

    name = self._specs[route].name
    return self._tracer.start_span(
        f'{kind} {name}',
        kind=trace.SpanKind.CLIENT,
        attributes={
            'gen_ai.request.model': name,
            'routing.call': kind,
            'routing.route': route,
        },
    )

  def _end_step(self, index: int, step: types.Step) -> None:
    """Makes the span of a step that is now written."""
    row = self._record.row(index, step)
    attributes = {
        'routing.step': index,
        'routing.writer': row['model'],
        'routing.route': step.route,
        'routing.tokens': row['tokens'],
        'routing.wasted_tokens': row['wasted_tokens'],
        **_flat('routing.cost', row['cost']),
    }
    for name in ('score', 'threshold'):
      if row[name] is not None:
        attributes[f'routing.{name}'] = float(row[name])
    span = self._tracer.start_span(
        f'step {row["model"]}', start_time=self._since, attributes=attributes
    )
    self._since = time.time_ns()
    span.end(self._since)

  def _cost(self, usage: types.Usage) -> dict[str, float]:
    """Returns cost metric -> cost of a usage."""
    spec = self._specs[usage.route]
    return {
        metric: float(costs.call_cost(usage, spec, metric))
        for metric in costs.COST_METRICS
    }


def to_collector(address: str) -> Tracing:
  """Returns tracing that sends its spans to a collector, over OTLP/HTTP.

  The SDK reads further settings from its own environment variables, e.g. for
  headers and sampling.

  Args:
    address: of the collector, e.g. 'http://127.0.0.1:4318/v1/traces'.

  Raises:
    ValueError: if the address is none, or the extra `track` is not installed.
  """
  if not address.startswith(('http://', 'https://')):
    raise ValueError(
        f'The address for traces is {address!r}; allowed: '
        'http://... or https://..., e.g. http://127.0.0.1:4318/v1/traces.'
    )
  try:
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk import resources
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace import export
  except ImportError as error:
    raise ValueError(
        f'Traces need the extra `track`; {error.name} is not installed.'
    ) from error
  provider = sdk.TracerProvider(
      resource=resources.Resource.create({'service.name': _NAME})
  )
  exporter = trace_exporter.OTLPSpanExporter(endpoint=address)
  provider.add_span_processor(export.BatchSpanProcessor(exporter))
  return Tracing(provider.get_tracer(_NAME), provider)


def _usage(usage: types.Usage) -> dict[str, int]:
  """Returns the tokens of a call."""
  read, cached = int(usage.read), int(usage.cached)
  return {
      # As OpenTelemetry counts them, the cached ones included.
      'gen_ai.usage.input_tokens': read + cached,
      'gen_ai.usage.output_tokens': int(usage.written),
      'routing.cached_tokens': cached,
  }


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a mapping as attributes, without what is not known."""
  return {
      f'{prefix}.{name}': value
      for name, value in values.items()
      if value is not None
  }


def _fail(span: Any, reason: str) -> None:
  """Marks a span as that of a failure."""
  from opentelemetry import trace

  span.set_attribute('error.type', reason)
  span.set_status(trace.StatusCode.ERROR, reason)
