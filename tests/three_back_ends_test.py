"""One run with three models: embedded, behind vLLM's server, and bought."""

import json
import pathlib

from absl.testing import absltest
import pytest

from configs import arithmetic_servers
from experiments import pipeline
from routing.engines import embedded
from routing.lm import export
from routing.lm import tokenizer as tokenizer_lib
from routing.shards import reader
from tests import openai_models_test
from tests import openai_server

_VOCABULARY = tokenizer_lib.Tokenizer()


def _decode(i):
  return '' if i == _VOCABULARY.eos_id else _VOCABULARY.decode([i])


def _config(medium_url, large_url):
  """Returns a configuration of three routes on three kinds of back end."""
  config = arithmetic_servers.get_config('smoke')
  small, medium = config.routes
  small.update(
      engine='embedded',
      model='shipped/small',
      weights='',
      settings=dict(max_batch=8, num_slots=8),
  )
  medium.update(name='medium', model='m', weights='shipped/large')
  medium['settings'].update(base_url=medium_url)
  large = dict(
      name='large',
      engine='openai',
      model='gpt-5-mini',
      sampling=dict(temperature=1.0),
      spec=dict(
          price_input=100.0,
          price_cached=10.0,
          price_output=400.0,
          parameters=8_000_000_000,
          num_layers=32,
          attention_width=4_096,
      ),
      settings=dict(
          base_url=large_url, mode='instruct', reasoning_effort='low'
      ),
      prompt=dict(is_chat=True),
  )
  config.routes = (small, medium, large)
  config.problems.update(train=12, select=8, prove=8, test=8)
  config.collect.update(shard_size=8, concurrency=8)
  config.protocol.max_decisions = 3
  config.evaluation.update(learners=(), num_live=2, num_coverage_samples=0)
  return config


@pytest.mark.usefixtures('lightly_optimized')
class ThreeBackEndsTest(absltest.TestCase):

  @pytest.mark.slow
  def test_are_collected_trained_calibrated_and_evaluated(self):
    workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    engine = embedded.EmbeddedEngine(
        'medium',
        0,
        *export.load_pretrained(export.shipped('large')),
        _VOCABULARY,
        # As in other tests, so that its programs are compiled once for all.
        max_batch=8,
        num_slots=8,
    )
    medium = openai_server.Model(engine, _decode, can_stop=True)
    bought = openai_models_test.Server(text='I do not know.\n\n#### 0')
    with (
        openai_server.serve(openai_server.make_app(medium)) as medium_url,
        openai_server.serve(bought.app()) as large_url,
    ):
      config = _config(medium_url, large_url)
      pipeline.run(config, workdir, lambda line: None)
    ladders = reader.read_ladders(workdir / 'shards' / 'train')
    self.assertLen(ladders, 12)
    for ladder in ladders:
      self.assertEqual({x.route for x in ladder.completions}, {1, 2})
      for completion in ladder.completions:
        if completion.route == 2:
          self.assertFalse(completion.is_correct)
          # Ten tokens of text, 190 thoughts.
          self.assertEqual(completion.written, 200)
    # Every request of each server was one that it accepts.
    self.assertTrue(all(body['temperature'] == 0 for body in medium.requests))
    self.assertTrue(all('temperature' not in body for body in bought.bodies))
    results = json.loads((workdir / 'results.json').read_text())
    self.assertEqual(results['num_problems']['test'], 8)
    self.assertEqual(
        [route['name'] for route in results['config']['routes']],
        ['small', 'medium', 'large'],
    )


if __name__ == '__main__':
  absltest.main()
