"""Tests that need a GPU: a router scores there as it does on the processor."""

from absl.testing import absltest
import jax
import numpy as np
import pytest

import routing


def _gpus():
  """Returns the GPUs that jax sees."""
  try:
    return jax.devices('gpu')
  except RuntimeError:
    return []


def shipped_scores(device):
  """Returns the shipped router's scores on a device, `[policies, N]`."""
  rng = np.random.default_rng(0)
  with jax.default_device(device):
    router = routing.load('shipped')
    shape = 64, router.card.features.size
    features = rng.normal(size=shape).astype(np.float32)
    return np.array(
        [router.score(features, k) for k in range(router.num_policies)]
    )


@pytest.mark.gpu
class ShippedTest(absltest.TestCase):

  def test_scores_are_those_of_the_processor(self):
    gpus = _gpus()
    if not gpus:
      self.skipTest('jax sees no GPU; it needs one, and the extra `cuda12`.')
    here = shipped_scores(jax.devices('cpu')[0])
    self.assertGreater(np.ptp(here), 0.1)  # No constants.
    # Float32, summed in another order.
    np.testing.assert_allclose(shipped_scores(gpus[0]), here, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
