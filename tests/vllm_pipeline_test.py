"""Tests of all stages with vLLM: collect, train, calibrate, evaluate live."""

import contextlib
import importlib.util
import json
import pathlib
import unittest

from absl.testing import absltest

from benchmarks import servers
from configs import arithmetic_servers
from configs import arithmetic_vllm
from experiments import builders
from experiments import evaluate
from experiments import pipeline
from routing.engines import back_ends


@unittest.skipUnless(
    importlib.util.find_spec('vllm'),
    'vllm is not installed here; run: make test-vllm',
)
class PipelineTest(absltest.TestCase):

  def _check_chain(self, config):
    """From problems to live answers at operating points."""
    workdir = pathlib.Path(self.create_tempdir().full_path)
    files = pipeline.run(config, workdir, say=lambda line: None)
    self.assertTrue(all(path.exists() for path in files))
    results = json.loads((workdir / evaluate.RESULTS_FILE).read_text())
    self.assertNotEmpty(results['live'])
    for point in results['live']:
      self.assertEqual(point['num_problems'], config.evaluation.num_live)
      # A live hand-over writes the completion that was collected.
      self.assertEqual(point['num_agreeing'], point['num_problems'])

  def test_in_process(self):
    self._check_chain(arithmetic_vllm.get_config('smoke'))

  def test_with_servers(self):
    ours = arithmetic_vllm.get_config('smoke')
    builders.set_environment(ours)
    config = arithmetic_servers.get_config('smoke')
    with contextlib.ExitStack() as stack:
      urls = [
          stack.enter_context(
              servers.serve(route.name, route.folder, back_ends.settings(route))
          )
          for route in builders.routes(ours)
      ]
      for url in urls:
        servers.wait_for(url)
      for route, url in zip(config.routes, urls, strict=True):
        route['settings']['base_url'] = f'{url}/v1'
      self._check_chain(config)


if __name__ == '__main__':
  absltest.main()
