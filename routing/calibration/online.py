"""Adapts the threshold in service to graded feedback, answer by answer.

After the k-th graded answer, whose relative loss is l_k in [0, 1] (a *miss* is
a loss of 1), the threshold kappa becomes

  kappa_{k+1} = min(high, kappa_k - eta_k (l_k - alpha)),
  eta_k = first_step * k^(-1/2 - xi).

A miss lowers kappa, so that more problems are handed over; an answer without
loss raises kappa a little. Source: Angelopoulos, Barber, Bates 2024, "Online
conformal prediction with decaying step sizes". This module differs in two
points: the sign is reversed, since a larger threshold is the safer one in that
paper, and kappa is capped at `high`.

**Any sequence of answers.** Assume only that at kappa <= `low` no answer has a
relative loss. That is true if all scores are >= `low`: every problem then goes
to the largest model at once. With B = high - low, after n graded answers,

  mean loss <= alpha + (B + (1 - alpha) eta_1) / (n eta_n),

which is alpha + O(n^(-1/2 + xi)). The bound holds for any answers and grades,
even if an adversary who knows kappa chooses them; the proof stands in
`guarantee`. If kappa never reaches `high`, the mean loss is below alpha by at
most the same amount. If kappa stays at `high`, even the small model alone loses
no more than alpha, and the mean loss may be lower.

**Independent answers.** The step sizes eta_k sum to infinity, and their squares
have a finite sum. So kappa converges to where the expected loss crosses alpha
(theorem 3 of the same paper); with a constant step size kappa would oscillate
around that point for ever.
"""

import flax.struct
import numpy as np


@flax.struct.dataclass
class State:
  """A threshold in service, or an array of independent ones; float64 arrays.

  The state includes the settings, so that service needs to save nothing else:
  `flax.serialization.to_bytes` and `from_bytes` restore the state exactly.

  kappa: `[...]` the present threshold; at most `high`, perhaps slightly below
    `low`.
  count: `[]` k, the number of graded answers so far.
  loss: `[...]` sum of the losses of these answers.
  alpha: `[...]` or `[]`, the target of the mean loss, in (0, 1).
  low, high: `[]` range of the scores, in which kappa starts.
  first_step: `[]` eta_1 > 0, in units of the score.
  xi: `[]` in [0, 1/2]; step sizes decay as k^(-1/2 - xi).
  """

  kappa: np.ndarray
  count: np.ndarray
  loss: np.ndarray
  alpha: np.ndarray
  low: np.ndarray
  high: np.ndarray
  first_step: np.ndarray
  xi: np.ndarray


def init(
    kappa: np.ndarray | float,
    *,
    alpha: np.ndarray | float,
    low: float = 0.0,
    high: float = 1.0,
    first_step: float | None = None,
    xi: float = 0.1,
) -> State:
  """Returns the state of a threshold before the first graded answer.

  Args:
    kappa: `[...]` thresholds to start from, in [low, high], e.g. calibrated.
    alpha: target of the mean relative loss, in (0, 1): `[...]`, or one number
      for all thresholds.
    low, high: all scores are >= low, and hardly any is above high. If scores
      are concentrated in a small part of the range, use their ranks among
      training scores instead.
    first_step: eta_1 > 0, in units of the score; 2 (high - low) if None.
    xi: in [0, 1/2]; the smaller xi, the longer kappa keeps moving.

  Raises:
    ValueError: if an argument is outside its range.
  """
  kappa, alpha = np.asarray(kappa, np.float64), np.asarray(alpha, np.float64)
  if not np.all((alpha > 0) & (alpha < 1)):
    raise ValueError(f'alpha must be in (0, 1), got {alpha}.')
  if not 0 <= xi <= 0.5:
    raise ValueError(f'xi must be in [0, 1/2], got {xi}.')
  if not (low < high and np.all((kappa >= low) & (kappa <= high))):
    raise ValueError(
        f'kappa must be in [low, high] = [{low}, {high}], got {kappa}.'
    )
  if first_step is None:
    # The first step must be large enough for kappa to be able to cross the
    # whole range once more after ten thousand answers.
    first_step = 2 * (high - low)
  if not 0 < first_step < np.inf:
    raise ValueError(f'first_step must be in (0, inf), got {first_step}.')
  settings = {'low': low, 'high': high, 'first_step': first_step, 'xi': xi}
  return State(
      kappa=kappa,
      count=np.float64(0),
      loss=np.zeros_like(kappa),
      alpha=alpha,
      **{name: np.float64(value) for name, value in settings.items()},
  )


def step_size(state: State) -> np.ndarray:
  """Returns eta_k, the step size after graded answer k; eta_1 at k = 0."""
  count = np.maximum(state.count, 1.0)
  # xi <= 1/2 makes the step sizes k^(-1/2 - xi) sum to infinity; xi > 0 makes
  # their squares sum to a finite number.
  return state.first_step * count ** (-0.5 - state.xi)


def update(state: State, loss: np.ndarray | float) -> State:
  """Returns the state after one more graded answer.

  Args:
    state: the state before; the answer was routed with its kappa.
    loss: `[...]` relative loss of the answer in [0, 1], 1 for a miss. Leave out
      answers without a grade; which answers are graded must not depend on how
      good they are.

  Raises:
    ValueError: if a loss is outside [0, 1].
  """
  loss = np.asarray(loss, np.float64)
  if not np.all((loss >= 0) & (loss <= 1)):
    raise ValueError(f'loss must be in [0, 1], got {loss}.')
  state = state.replace(count=state.count + 1.0, loss=state.loss + loss)
  # A miss must *lower* kappa: the sign is the reverse of Angelopoulos et al.
  moved = state.kappa - step_size(state) * (loss - state.alpha)
  # Without the cap a long time without misses would raise kappa far above all
  # scores. Later misses would then have no effect until kappa fell back to the
  # scores.
  return state.replace(kappa=np.minimum(moved, state.high))


def mean_loss(state: State) -> np.ndarray:
  """Returns `[...]` the mean loss of the graded answers so far; nan if none."""
  with np.errstate(invalid='ignore'):
    return np.asarray(state.loss / state.count)


def guarantee(state: State) -> np.ndarray:
  """Returns `[...]` an upper bound on `mean_loss`; inf before the first answer.

  The bound holds for every sequence of answers; no probability is involved.
  """
  # Proof. By the cap, l_k - alpha <= (kappa_k - kappa_{k+1}) / eta_k. Let x_k =
  # kappa_k - low and B = high - low. Summation by parts, with 1 / eta_k rising
  # and x_k <= B, bounds the sum of the right sides by (B - x_{n+1}) / eta_n.
  # And x never falls below -(1 - alpha) eta_1: at x_k <= 0 the loss is 0 and x
  # rises; from x_k > 0 it falls by at most (1 - alpha) eta_k. Dividing by n
  # gives (B + (1 - alpha) eta_1) / (n eta_n).
  max_distance = state.high - state.low + (1 - state.alpha) * state.first_step
  with np.errstate(divide='ignore'):
    return state.alpha + max_distance / (state.count * step_size(state))
