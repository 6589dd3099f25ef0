"""What the service answers to generated requests is what it describes."""

from unittest import mock

from absl.testing import absltest
import requests
from schemathesis import openapi

from benchmarks import schema_cases
from routing.serving import openai_answers
from tests import router_server

_QUESTIONS = [router_server.QUESTION, '7:2\n']


class SchemaCasesTest(router_server.SharedCase):

  def test_no_case_is_answered_otherwise_than_described(self):
    found = schema_cases.run(str(self.http.base_url), 90, _QUESTIONS)
    summary = found.summary()
    self.assertEmpty(summary['first_faults'])
    self.assertEqual(summary['server_errors'], 0)
    self.assertGreaterEqual(summary['cases'], 90)
    # Some were answered, and others refused.
    self.assertContainsSubset({200, 400, 404}, summary['statuses'])

  def test_a_stream_is_as_described(self):
    schema = openapi.from_url(f'{self.http.base_url}/openapi.json')
    case = schema[router_server.CHAT]['POST'].Case(
        body=router_server.body(stream=True), media_type='application/json'
    )
    found = schema_cases.Found()
    with requests.Session() as session:
      schema_cases._check(case, session, found)
    self.assertEqual(found.statuses, {200: 1})
    self.assertEmpty(found.faults)
    self.assertLen(found.ids, 1)

  def test_an_answer_that_is_not_described_is_found(self):
    wrong = {'prompt_tokens': 'five'}
    with mock.patch.object(openai_answers, '_usage', lambda answers: wrong):
      found = schema_cases.run(str(self.http.base_url), 50, _QUESTIONS)
    self.assertNotEmpty(found.faults)
    self.assertIn('"five" is not of type "integer"', found.faults[0])

  def test_an_error_of_the_service_is_found(self):
    with mock.patch.object(openai_answers, '_usage', side_effect=KeyError):
      found = schema_cases.run(str(self.http.base_url), 50, _QUESTIONS)
    self.assertGreater(found.summary()['server_errors'], 0)
    self.assertNotEmpty(found.faults)

  def test_errors_and_streams_are_described(self):
    described = self.http.get('/openapi.json').json()
    for path, operations in described['paths'].items():
      for operation in operations.values():
        responses = operation['responses']
        self.assertContainsSubset({'200', '4XX', '5XX'}, responses, path)
        self.assertNotIn('422', responses)
    chat = described['paths'][router_server.CHAT]['post']['responses']['200']
    self.assertIn('text/event-stream', chat['content'])


if __name__ == '__main__':
  absltest.main()
