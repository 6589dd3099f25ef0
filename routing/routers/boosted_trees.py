"""Gradient boosted trees of the supervised learners, by LightGBM.

Source: Ke et al. 2017, "LightGBM: A Highly Efficient Gradient Boosting Decision
Tree".
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Trees:
  """Fitted trees.

  text: in LightGBM's format; equal trees have equal texts.
  """

  text: str

  @functools.cached_property
  def _booster(self) -> Any:
    return load().Booster(model_str=self.text)

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Returns `[M]` float64 predictions of `[M, F]` features.

    Of a regression they are values, of a classifier probabilities of True.
    """
    return self._booster.predict(features)

  def __getstate__(self) -> dict[str, str]:
    """Leaves the loaded trees out: a pickle depends on the text only."""
    return {'text': self.text}


def learner(
    features: np.ndarray,
    setting: Mapping[str, Any],
    objective: str,
) -> Callable[[np.ndarray], Trees]:
  """Returns a function that fits trees to any `[M]` targets.

  The features are binned here, once for all targets.

  Args:
    features: `[M, F]` floats.
    setting: `num_iterations`, and parameters of LightGBM.
    objective: 'regression' or 'binary'.

  Raises:
    ValueError: if the system has no OpenMP; the message names the package.
  """
  lightgbm = load()
  setting = dict(setting)
  num_iterations = setting.pop('num_iterations')
  params = dict(
      objective=objective,
      lambda_l2=1.0,
      # The same trees with any number of threads: each sums whole columns.
      deterministic=True,
      force_col_wise=True,
      verbosity=-1,
      **setting,
  )
  data = lightgbm.Dataset(features, params=params).construct()

  def fit(targets: np.ndarray) -> Trees:
    data.set_label(np.asarray(targets, np.float32))  # Also of bool.
    booster = lightgbm.train(params, data, num_iterations)
    return Trees(booster.model_to_string())

  return fit


def load() -> Any:
  """Imports LightGBM, which takes seconds, and returns the module.

  Raises:
    ValueError: if the system has no OpenMP; the message names the package.
  """
  try:
    import lightgbm
  except OSError as error:
    raise ValueError(  # The user can correct it.
        f'LightGBM, which fits boosted trees, cannot be loaded: {error}. Its '
        "library needs the system's OpenMP: libgomp1 on Debian and Ubuntu, "
        'libgomp on Fedora, libomp on macOS.'
    ) from error
  return lightgbm
