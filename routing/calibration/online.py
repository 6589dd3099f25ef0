"""The threshold in service: it follows graded feedback, answer by answer.

After the k-th graded answer, whose relative loss is l_k in [0, 1] (a *miss* is
a loss of 1), the threshold moves by

  kappa_{k+1} = min(high, kappa_k - eta_k (l_k - alpha)),
  eta_k = first_step * k^(-1/2 - xi).

A miss lowers kappa, so that more is handed over; every answer without one
raises it a little. Source: Angelopoulos, Barber, Bates 2024, "Online conformal
prediction with decaying step sizes", with the sign turned round (their larger
threshold is the safer one) and the cap at `high`.

**Any sequence of answers.** Suppose only that a kappa <= `low` loses nothing,
which holds where all scores are >= `low`: every problem then goes to the
largest model at once. With B = high - low, after n graded answers,

  mean loss <= alpha + (B + (1 - alpha) eta_1) / (n eta_n),

which is alpha + O(n^(-1/2 + xi)), whoever chose the answers and their grades,
even in the knowledge of kappa. Proof: by the cap, l_k - alpha <=
(kappa_k - kappa_{k+1}) / eta_k. Let x_k = kappa_k - low. Summed by parts, with
1 / eta_k rising and x_k <= B, the right side is at most
B / eta_n - x_{n+1} / eta_n. And x never falls below -(1 - alpha) eta_1: at
x_k <= 0 nothing is lost and it rises, from x_k > 0 it falls by (1 - alpha)
eta_k at most. Where the cap is never reached all this are equalities, and the
mean loss is not *below* alpha by more than the same amount either. At the cap
the small model alone loses less than alpha, and that is all there is to spend.

**Independent answers.** The steps sum to infinity and their squares do not, so
kappa converges to where the expected loss crosses alpha (theorem 3 there),
while a constant step would circle it for ever.
"""

import flax.struct
import numpy as np


@flax.struct.dataclass
class State:
  """A threshold in service, or an array of them side by side; float64 arrays.

  It holds its settings, so a state that was saved is all that service needs:
  `flax.serialization.to_bytes` and `from_bytes` give it back exactly.

  kappa: `[...]` threshold now; at most `high`, perhaps a little below `low`.
  count: `[]` graded answers so far.
  loss: `[...]` sum of their losses.
  alpha: `[...]` or `[]`, the mean loss aimed at, in (0, 1).
  low, high: `[]` where the scores are; kappa starts in here.
  first_step: `[]` eta_1 > 0, in units of the score.
  xi: `[]` the steps decay as k^(-1/2 - xi), in [0, 1/2].
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
  """The state before the first answer.

  Args:
    kappa: `[...]` thresholds to start from, in [low, high]: calibrated ones.
    alpha: `[...]` or one for all, the mean relative loss aimed at, in (0, 1).
    low, high: all scores are >= low, and hardly any is above high. Scores that
      crowd together are better served as ranks among training scores.
    first_step: eta_1 > 0; 2 (high - low) if None: large enough to cross the
      range again after ten thousand answers.
    xi: in [0, 1/2]; small ones keep moving longer.

  Raises:
    ValueError: if one of them is outside its range.
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
    first_step = 2 * (high - low)
  if not 0 < first_step < np.inf:
    raise ValueError(f'first_step must be positive, got {first_step}.')
  settings = {'low': low, 'high': high, 'first_step': first_step, 'xi': xi}
  return State(
      kappa=kappa,
      count=np.float64(0),
      loss=np.zeros_like(kappa),
      alpha=alpha,
      **{name: np.float64(value) for name, value in settings.items()},
  )


def step_size(state: State) -> np.ndarray:
  """eta of the last graded answer; eta_1 before the first."""
  count = np.maximum(state.count, 1.0)
  return state.first_step * count ** (-0.5 - state.xi)


def update(state: State, loss: np.ndarray | float) -> State:
  """The state after one more graded answer, given at `state.kappa`.

  Args:
    state: before it.
    loss: `[...]` its relative loss in [0, 1], 1 for a miss. Answers that nobody
      graded are left out; which are graded must not depend on how good they
      are.

  Raises:
    ValueError: if a loss is outside [0, 1].
  """
  loss = np.asarray(loss, np.float64)
  if not np.all((loss >= 0) & (loss <= 1)):
    raise ValueError(f'A loss must be in [0, 1], got {loss}.')
  state = state.replace(count=state.count + 1.0, loss=state.loss + loss)
  moved = state.kappa - step_size(state) * (loss - state.alpha)
  return state.replace(kappa=np.minimum(moved, state.high))


def mean_loss(state: State) -> np.ndarray:
  """`[...]` mean loss of the graded answers so far; nan before the first."""
  with np.errstate(invalid='ignore'):
    return np.asarray(state.loss / state.count)


def guarantee(state: State) -> np.ndarray:
  """`[...]` what `mean_loss` is at most by now; inf before the first.

  The bound of the module's docstring, for any sequence of answers: arithmetic,
  no probability in it.
  """
  reach = state.high - state.low + (1 - state.alpha) * state.first_step
  with np.errstate(divide='ignore'):
    return state.alpha + reach / (state.count * step_size(state))
