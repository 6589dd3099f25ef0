"""Tests of data parallelism: eight devices give the results of one."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
# In a process of its own, since the number of devices is fixed at the start.
_PROGRAM = """
import json
import sys

import jax
import numpy as np

from routing.training import fit
from routing.training import metrics
from routing.training import parallel
from routing.training import sources
from tests import actor_critic_test
from tests import training_test


def run(case, devices, directory):
  if case == 'exact':
    config = training_test._config(batch_size=32, num_steps=int(sys.argv[2]))
    data = training_test._random_batch(40)
    data.features[..., 2:4] = data.features[:, :1, 2:4]
    constant = slice(2, 4)
  else:
    update, _, kind = case.partition('/')
    config = actor_critic_test.make_config(
        update, batch_size=32, num_steps=int(sys.argv[2])
    )
    data = actor_critic_test.make_batch(40)
    constant = slice(0, 0)
    if kind == 'streamed':
      files = [jax.tree.map(lambda x: x[a::2], data) for a in (0, 1)]
      shards = sources.Shards(files.__getitem__, [20, 20])
      layout = parallel.first_devices(devices)
      source = sources.streamed(shards, 0, 32, 1, layout)
      (batch, _) = source(0, None)
      assert len(batch.mask.sharding.device_set) == devices
      data, validation = source, data
  validation = data if not callable(data) else validation
  state = fit.fit(
      config,
      data,
      validation,
      directory,
      seed=0,
      devices=devices,
      constant=constant,
  )
  rows = metrics.read_rows(directory + '/metrics.jsonl')
  return [np.asarray(x) for x in jax.tree.leaves(state)], rows


def largest(a, b):
  # Relative above 1: the multipliers of a trust region are large.
  return max(
      float(np.max(np.abs(x - y) / np.maximum(1, np.abs(x))))
      for x, y in zip(a, b, strict=True)
  )


assert jax.device_count() == 8
out = {}
for case in ('exact', 'lagrangian', 'trust_region/streamed'):
  name = sys.argv[1] + '/' + case.replace('/', '_')
  one, rows_of_one = run(case, 1, name + '1')
  eight, rows_of_eight = run(case, 8, name + '8')
  scores = [
      largest([np.asarray(a[k], float)], [np.asarray(b[k], float)])
      for a, b in zip(rows_of_one, rows_of_eight, strict=True)
      for k in a
  ]
  finite = [x for x in scores if np.isfinite(x)]
  out[case] = {'state': largest(one, eight), 'metrics': max(finite)}
try:
  parallel.first_devices(8).rows(np.zeros(12))
except ValueError as error:
  out['uneven'] = str(error)
print(json.dumps(out))
"""


class DataParallelTest(absltest.TestCase):

  @pytest.mark.slow
  def test_eight_devices_give_the_results_of_one(self):
    done = subprocess.run(
        [sys.executable, '-c', _PROGRAM, self.create_tempdir().full_path, '2'],
        cwd=_ROOT,
        env=os.environ
        | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': (
                os.environ.get('XLA_FLAGS', '')
                + ' --xla_force_host_platform_device_count=8'
            ),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr[-3000:])
    out = json.loads(done.stdout.splitlines()[-1])
    self.assertIn('12 rows cannot be shared evenly by 8', out.pop('uneven'))
    for case, differences in out.items():
      with self.subTest(case):
        self.assertLess(max(differences.values()), 1e-5)


if __name__ == '__main__':
  absltest.main()
