"""Synthetic ladders with a known structure, for tests that need no model.

The small model errs at some steps; its score there tends to be high. Once an
error is in the trace the large model rarely recovers, so handing over pays if,
and only if, it comes no later than the first error.
"""

import numpy as np

from routing import types
from routing.outcomes import sources
from routing.outcomes import stopping as stopping_lib
from routing.outcomes import table as table_lib

SMALL_STEP, LARGE_STEP, READ_STEP = 0.03, 0.16, 0.03


def make_ladders(
    num_problems: int,
    *,
    num_steps: int = 6,
    num_routes: int = 2,
    seed: int = 0,
    num_samples: int = 1,
    num_levels: int | None = None,
) -> tuple[types.OutcomeBatch, np.ndarray]:
  """Returns a batch and `[N, T]` float32 scores that tell part of the truth.

  Args:
    num_problems: N.
    num_steps: T; problems have between half of them and all.
    num_routes: A; larger routes are righter and dearer.
    seed: of everything.
    num_samples: completions per prefix; outcomes are multiples of 1 / this.
    num_levels: rounds scores to so many values, which makes ties.
  """
  rng = np.random.default_rng(seed)
  shape = num_problems, num_steps
  lengths = rng.integers((num_steps + 1) // 2, num_steps + 1, num_problems)
  steps = np.arange(num_steps)
  mask = steps < lengths[:, None]
  is_wrong = (rng.random(shape) < 0.2) & mask
  is_clean = np.cumsum(is_wrong, axis=1) - is_wrong == 0  # Before step t.
  scores = (1.2 * is_wrong + rng.normal(size=shape)).astype(np.float32)
  if num_levels:
    scores = np.round(scores * num_levels / 4) * 4 / num_levels
  correct, loss, cost = [], [], []
  # The largest model's own samples, against which every loss is paired.
  skill = np.linspace(0.95, 0.8, num_routes - 1)[::-1]
  draws = rng.random((num_problems, num_steps, num_routes - 1, num_samples))
  chance = np.where(is_clean[..., None], skill, 0.1 * skill)
  is_right = draws < chance[..., None]
  largest = is_right[:, 0, -1]
  correct = is_right.mean(axis=-1)
  loss = (largest[:, None, None] & ~is_right).mean(axis=-1)
  price = np.linspace(1.0, 0.6, num_routes - 1)[::-1] * LARGE_STEP
  left = (lengths[:, None] - steps)[..., None]
  cost = (
      SMALL_STEP * (steps[:, None] + 1)
      + READ_STEP * steps[:, None]
      + price * np.maximum(left, 0)
  )
  all_large = LARGE_STEP * lengths
  stay_right = ~is_wrong.any(axis=1)
  batch = from_ends(
      mask,
      features=np.stack([scores, np.broadcast_to(steps, shape)], axis=-1),
      correct=(stay_right, _padded(correct, mask)),
      cost=(
          SMALL_STEP * lengths / all_large,
          _padded(cost / all_large[:, None, None], mask),
      ),
      loss=(largest.mean(axis=-1) * ~stay_right, _padded(loss, mask)),
  )
  return batch, np.where(mask, scores, 0.0)


def chain_batch(features, mask, **outcomes) -> types.OutcomeBatch:
  """Ladders as a batch.

  Args:
    features: `[N, T, F]`.
    mask: `[N, T]` bool.
    **outcomes: for correct, cost and loss, `[N, T]` of staying, 0 but at the
      last decision, and `[N, T, A-1]` of handing over.
  """
  fields = {
      name: np.concatenate([np.asarray(stay)[..., None], moved], axis=-1)
      for name, (stay, moved) in outcomes.items()
  }
  return types.OutcomeBatch(
      features=np.asarray(features, np.float32),
      mask=np.asarray(mask, bool),
      branch=np.zeros(np.shape(mask), np.int32),
      widths=(1,) * np.shape(mask)[1],
      **{name: x.astype(np.float32) for name, x in fields.items()},
  )


def from_ends(mask, **outcomes) -> types.OutcomeBatch:
  """The same from what staying to the end brings, `[N]`, and handing over."""
  mask = np.asarray(mask, bool)
  last = np.arange(mask.shape[1]) == mask.sum(axis=1)[:, None] - 1
  features = outcomes.pop('features', np.zeros((*mask.shape, 1)))
  fields = {
      name: (np.asarray(stay)[:, None] * last, np.asarray(moved))
      for name, (stay, moved) in outcomes.items()
  }
  return chain_batch(features, mask, **fields)


def _padded(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  return np.where(mask[..., None], values, 0.0).astype(np.float32)


def make_outcomes(
    num_problems: int, **kwargs
) -> tuple[stopping_lib.Outcomes, np.ndarray]:
  """The same as a table of stopping times, with its scores."""
  batch, scores = make_ladders(num_problems, **kwargs)
  return stopping_lib.from_batch(batch), scores


def ladder_batch(
    *,
    features,
    mask,
    handover_correct,
    handover_cost,
    handover_loss,
    stay_correct,
    stay_cost,
    stay_loss,
) -> types.OutcomeBatch:
  """Ladders from what each way out brings: `[N, T, A-1]`, and `[N]` to stay."""
  return from_ends(
      mask,
      features=features,
      correct=(stay_correct, handover_correct),
      cost=(stay_cost, handover_cost),
      loss=(stay_loss, handover_loss),
  )


class Family:
  """Thresholds on the scores of `make_ladders`, with some noise.

  Args:
    spread: of the noise.
    seed: of the noise.
  """

  def __init__(self, spread: float = 0.0, seed: int = 0):
    self.fingerprint = f'noise {spread} {seed}'
    self._spread, self._seed = spread, seed

  def score(self, decisions):
    """The first feature, and noise that is the same each time."""
    rng = np.random.default_rng(self._seed)
    noise = rng.normal(size=len(decisions.depth))
    return decisions.features[:, 0] + self._spread * noise, None


def make_known(num_problems: int, **kwargs) -> sources.Known:
  """The same ladders as a source."""
  batch, _ = make_ladders(num_problems, **kwargs)
  problems = [
      types.Problem(id=f'made/{n}', question=str(n), answer='')
      for n in range(num_problems)
  ]
  return sources.Known(table_lib.from_batch(batch), problems)


def walk(scores: np.ndarray, mask: np.ndarray, threshold: float) -> list[int]:
  """Stopping times by the plainest loop: the first score >= threshold."""
  times = []
  for row, exists in zip(scores, mask, strict=True):
    time = len(row)
    for step, (score, is_step) in enumerate(zip(row, exists, strict=True)):
      if is_step and score >= threshold:
        time = step
        break
    times.append(time)
  return times
