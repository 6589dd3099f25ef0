"""The spans of OpenTelemetry that a service makes, over real HTTP."""

import http.server
import itertools
import sys
import threading
from unittest import mock

from absl.testing import absltest
from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import export
from opentelemetry.sdk.trace.export import in_memory_span_exporter

from routing.engines import engine as engine_lib
from routing.rollout import watching
from routing.serving import tracing as tracing_lib
from tests import router_server
from tests import scripted_pair

_SMALL, _LARGE = router_server.SMALL, router_server.LARGE


def _said(spans):
  """Returns all that spans say, but for the time."""
  return router_server.untimed(' '.join(x.to_json() for x in spans))


def _named(spans, beginning):
  return [x for x in spans if x.name.startswith(beginning)]


class SpansTest(router_server.ServedCase):

  def setUp(self):
    super().setUp()
    self.exporter = in_memory_span_exporter.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(self.exporter))
    self.engines = scripted_pair.make_engines(2)
    tracing = tracing_lib.Tracing(provider.get_tracer('test'), provider)
    self.service, self.http = self.serve(
        lambda: router_server.scripted_service(
            engines=self.engines, tracing=tracing, attempts=1
        )
    )

  def spans(self, headers=None, **fields):
    """Asks, and returns the spans of the request, by their start."""
    response = self.http.post(
        router_server.CHAT, json=router_server.body(**fields), headers=headers
    )
    self.status = response.status_code
    return self.finished()

  def finished(self):
    """Returns the spans that have ended, once that of the request has."""
    found = self.exporter.get_finished_spans
    router_server.until(lambda: _named(found(), 'POST'))
    return sorted(found(), key=lambda x: x.start_time)

  def test_a_span_per_request_answer_step_and_call(self):
    spans = self.spans()
    (request,) = _named(spans, f'POST {router_server.CHAT}')
    (answer,) = _named(spans, 'answer router@cost<=0.5')
    steps, calls = _named(spans, 'step '), [
        x for x in spans if x.kind is trace.SpanKind.CLIENT
    ]
    self.assertLen(spans, 2 + len(steps) + len(calls))
    self.assertIs(request.kind, trace.SpanKind.SERVER)
    self.assertIsNone(request.parent)
    self.assertEqual(answer.parent.span_id, request.context.span_id)
    for span in steps + calls:
      self.assertEqual(span.parent.span_id, answer.context.span_id)
    self.assertEqual(
        [x.name for x in steps], [f'step {_SMALL}'] + [f'step {_LARGE}'] * 5
    )
    self.assertEqual(
        [x.name for x in calls],
        [f'draft {_SMALL}', f'draft {_SMALL}', f'hand_over {_LARGE}'],
    )
    # One step after the other, from the first to the last of the answer.
    for before, after in itertools.pairwise(steps):
      self.assertEqual(before.end_time, after.start_time)
    self.assertGreaterEqual(steps[0].start_time, answer.start_time)
    self.assertLessEqual(steps[-1].end_time, answer.end_time)
    self.assertEqual(request.attributes['http.response.status_code'], 200)
    self.assertEqual(request.attributes['gen_ai.usage.total_tokens'], 32)
    self.assertEqual(
        answer.attributes['routing.route'], f'{_SMALL}:1,{_LARGE}:5'
    )

  def test_tokens_and_costs_by_hand(self):
    spans = self.spans()
    calls = [x for x in spans if x.kind is trace.SpanKind.CLIENT]
    names = ('input_tokens', 'output_tokens')
    tokens = [
        tuple(x.attributes[f'gen_ai.usage.{name}'] for name in names)
        + (x.attributes['routing.cached_tokens'],)
        for x in calls
    ]
    # Small reads 5 and writes 4; then a draft of 4, with 9 cached. The larger
    # reads these 9 and writes 23. Prices per million: .2, .02 cached, 1
    # written, and four times as much.
    self.assertEqual(tokens, [(5, 4, 0), (9, 4, 9), (9, 23, 0)])
    costs = [x.attributes['routing.cost.price'] * 1e6 for x in calls]
    by_hand = [5 * 0.2 + 4, 9 * 0.02 + 4, 9 * 0.8 + 23 * 4]
    for cost, expected in zip(costs, by_hand, strict=True):
      self.assertAlmostEqual(cost, expected)
    wholes = _named(spans, 'answer') + _named(spans, 'POST')
    for span in wholes:
      self.assertAlmostEqual(
          span.attributes['routing.cost.price'] * 1e6, sum(by_hand)
      )
    steps = _named(spans, 'step ')
    self.assertAlmostEqual(
        sum(x.attributes['routing.cost.price'] for x in steps) * 1e6,
        sum(by_hand),
    )
    self.assertEqual(
        [x.attributes['routing.wasted_tokens'] for x in steps],
        [0, 4, 0, 0, 0, 0],
    )
    self.assertEqual(steps[0].attributes['routing.threshold'], 0.6)
    self.assertLess(steps[0].attributes['routing.score'], 0.6)

  def test_the_trace_of_the_caller_goes_on(self):
    trace_id, parent = 'ab' * 16, 'cd' * 8
    spans = self.spans({'traceparent': f'00-{trace_id}-{parent}-01'})
    self.assertEqual({f'{x.context.trace_id:032x}' for x in spans}, {trace_id})
    (request,) = _named(spans, 'POST')
    self.assertEqual(f'{request.parent.span_id:016x}', parent)

  def test_a_caller_that_is_not_sampled_has_no_spans(self):
    headers = {'traceparent': f'00-{"ab" * 16}-{"cd" * 8}-00'}
    found = self.http.post(
        router_server.CHAT, json=router_server.body(), headers=headers
    )
    self.assertEqual(found.status_code, 200)
    # The next request has; so those of the first would be here, too.
    self.assertLen(_named(self.spans(), 'answer'), 1)

  def test_a_malformed_traceparent_begins_a_trace(self):
    (request,) = _named(self.spans({'traceparent': '00-zz-1-01'}), 'POST')
    self.assertEqual(self.status, 200)
    self.assertIsNone(request.parent)

  def test_a_stream_and_several_answers(self):
    spans = self.spans(stream=True, n=2, temperature=1.0, seed=4)
    (request,) = _named(spans, 'POST')
    answers = _named(spans, 'answer')
    self.assertLen(answers, 2)
    ids = {x.attributes['routing.id'] for x in answers}
    name = request.attributes['routing.id']
    self.assertEqual(ids, {f'{name}-0', f'{name}-1'})
    self.assertLessEqual(answers[1].end_time, request.end_time)
    whole = sum(x.attributes['routing.cost.price'] for x in answers)
    self.assertAlmostEqual(request.attributes['routing.cost.price'], whole)

  def test_a_back_end_that_fails_and_the_answer_in_its_place(self):
    async def fail(self, request):
      raise engine_lib.Unavailable('It says 12:5.')

    session = type(self.engines[0].open(''))
    with mock.patch.object(session, 'write', fail):
      spans = self.spans()
    self.assertEqual(self.status, 503)
    first, second = _named(spans, 'answer')
    self.assertEqual(second.name, f'answer {_LARGE}')
    (request,) = _named(spans, 'POST')
    for span in (first, second):
      self.assertIs(span.status.status_code, trace.StatusCode.ERROR)
      self.assertEqual(span.attributes['error.type'], 'BackEndDown')
    for span in _named(spans, 'draft') + _named(spans, 'hand_over'):
      self.assertEqual(span.attributes['error.type'], 'BackEndDown')
    self.assertIs(request.status.status_code, trace.StatusCode.ERROR)
    self.assertNotIn('12:5', _said(spans))

  def test_a_client_that_goes_away(self):
    with mock.patch.object(self.engines[1], 'delay', 60.0):
      with self.http.stream(
          'POST', router_server.CHAT, json=router_server.body(stream=True)
      ) as found:
        next(found.iter_lines())
      spans = self.finished()
    (answer,) = _named(spans, 'answer')
    (call,) = _named(spans, 'hand_over')
    for span in (answer, call):
      self.assertEqual(span.attributes['error.type'], 'CancelledError')
    self.assertEqual(answer.attributes['routing.route'], f'{_SMALL}:1')

  def test_no_span_has_a_question_or_an_answer(self):
    spans = self.spans(stream=True)
    said = _said(spans)
    for text in ('12:5', '####', '13\\n'):
      self.assertNotIn(text, said)


class WatcherTest(absltest.TestCase):

  def test_nothing_is_kept_from_the_record(self):
    names = [x for x in vars(watching.Watcher) if not x.startswith('_')]
    self.assertContainsSubset(names, vars(tracing_lib.Spans))


class OffTest(router_server.SharedCase):

  def test_nothing_of_the_package_is_needed(self):
    loaded = [x for x in sys.modules if x.startswith('opentelemetry')]
    with mock.patch.dict(sys.modules, {x: None for x in loaded}):
      self.assertEqual(self.post().status_code, 200)
      with self.assertRaisesRegex(ValueError, 'extra `track`; opentelemetry'):
        tracing_lib.to_collector('http://127.0.0.1:1/v1/traces')

  def test_an_address_that_is_none(self):
    with self.assertRaisesRegex(ValueError, "'localhost'; allowed: http://"):
      tracing_lib.to_collector('localhost')


class CollectorTest(absltest.TestCase):

  def test_spans_arrive_at_a_collector(self):
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    bodies = []

    class Collector(http.server.BaseHTTPRequestHandler):

      def do_POST(self):  # As its base class wants it to be called.
        size = int(self.headers['content-length'])
        bodies.append((self.path, self.rfile.read(size)))
        self.send_response(200)
        self.end_headers()

      def log_message(self, *args):
        pass

    with http.server.HTTPServer(('127.0.0.1', 0), Collector) as server:
      thread = threading.Thread(target=server.serve_forever)
      thread.start()
      try:
        address = f'http://127.0.0.1:{server.server_port}/v1/traces'
        tracing = tracing_lib.to_collector(address)
        with tracing.request('GET', '/health', {}) as span:
          span.end(200, {})
        tracing.close()
      finally:
        server.shutdown()
        thread.join()
    ((path, body),) = bodies
    self.assertEqual(path, '/v1/traces')
    found = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    (resource,) = found.resource_spans
    named = {x.key: x.value.string_value for x in resource.resource.attributes}
    self.assertEqual(named['service.name'], 'stepwise-routing')
    (span,) = resource.scope_spans[0].spans
    self.assertEqual(span.name, 'GET /health')


if __name__ == '__main__':
  absltest.main()
