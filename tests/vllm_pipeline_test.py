"""The whole chain with vLLM: collect, train, calibrate, answer live."""

import importlib.util
import json
import pathlib
import unittest

from absl.testing import absltest

from configs import arithmetic_vllm
from experiments import evaluate
from experiments import pipeline


@unittest.skipUnless(
    importlib.util.find_spec('vllm'),
    'vllm is not installed here; run: make test-vllm',
)
class PipelineTest(absltest.TestCase):

  def test_from_problems_to_answers_at_named_points(self):
    config = arithmetic_vllm.get_config('smoke')
    workdir = pathlib.Path(self.create_tempdir().full_path)
    files = pipeline.run(config, workdir, say=lambda line: None)
    self.assertTrue(all(path.exists() for path in files))
    results = json.loads((workdir / evaluate.RESULTS_FILE).read_text())
    self.assertNotEmpty(results['live'])
    for point in results['live']:
      self.assertEqual(point['num_problems'], config.evaluation.live)
      # A hand-over happens live as its completion was collected.
      self.assertEqual(point['num_agreeing'], point['num_problems'])


if __name__ == '__main__':
  absltest.main()
