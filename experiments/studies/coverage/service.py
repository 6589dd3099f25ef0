"""Measures promises in service: long-run loss, and delays of alarms."""

from typing import Any

import numpy as np

from experiments.studies.coverage import streams
from routing.calibration import drift
from routing.calibration import online

ALPHAS = (0.02, 0.05, 0.1, 0.2)
DELTA = 0.1  # Probability that a quiet stream ever raises an alarm.
SHIFT = 0.1  # By which the loss rises above alpha.
MOST_OFF = 0.005  # Allowed distance of the long-run loss from alpha.
MOST_DELAY = 300  # Answers.
_QUIETS = (0, 500, 5_000)  # Answers before the shift.


def long_run(num: int, num_streams: int, seed: int) -> list[dict[str, Any]]:
  """Measures the mean loss of a threshold that follows feedback.

  Args:
    num: graded answers per stream.
    num_streams: streams of each kind.
    seed: of all draws.

  Returns:
    For each kind of stream and alpha: `loss`, the mean over streams; `off`, how
    far the worst stream is from alpha; `still`, the mean loss of a threshold
    that is tuned on the first tenth of the first stream and then stays fixed.
  """
  rows = []
  for name, make in streams.STREAMS.items():
    scores = make(num, num_streams, seed)
    alphas = np.array(ALPHAS)[:, None]
    start = np.full((len(ALPHAS), num_streams), 0.5)
    state = online.init(start, alpha=alphas)
    for row in scores:
      state = online.update(state, row < state.kappa)
    losses = online.mean_loss(state)
    for alpha, loss in zip(ALPHAS, losses, strict=True):
      # A problem is lost if its score is below kappa, so at the alpha-quantile
      # of the scores the share alpha is lost.
      early = np.sort(scores[: num // 10, 0])
      kappa = min(early[int(alpha * len(early))], 1.0)
      rows.append(
          {
              'stream': name,
              'alpha': alpha,
              'answers': num,
              'streams': num_streams,
              'loss': float(loss.mean()),
              'off': float(np.abs(loss - alpha).max()),
              'still': float((scores < kappa).mean()),
          }
      )
  return rows


def alarms(num: int, num_streams: int, seed: int) -> list[dict[str, Any]]:
  """Counts false alarms on quiet streams, and delays after a shift of 0.1.

  Args:
    num: answers per quiet stream.
    num_streams: streams per row.
    seed: of all draws.

  Returns:
    For each alpha: `false`, how many quiet streams ever raised an alarm;
    `most`, an upper bound on `within` for any alarm with so few false ones
    (`drift.most_within`); and `delays`, one entry for each number of quiet
    answers before the shift. An entry has the `median` and `late` (0.9
    quantile) delay in answers, and `within`, the share of alarms within
    `MOST_DELAY` answers.
  """
  rng = np.random.default_rng(seed)
  rows = []
  for alpha in ALPHAS:
    state = drift.init(alpha, streams=(num_streams,))
    for _ in range(num):
      state = drift.update(state, rng.random(num_streams) < alpha)
    rows.append(
        {
            'alpha': alpha,
            'delta': DELTA,
            'answers': num,
            'streams': num_streams,
            'false': int(drift.is_alarm(state, DELTA).sum()),
            'most': drift.most_within(
                alpha, SHIFT, MOST_DELAY, delta=DELTA, horizon=num
            ),
            'delays': [_delays(alpha, x, num_streams, rng) for x in _QUIETS],
        }
    )
  return rows


def _delays(
    alpha: float, quiet: int, num_streams: int, rng: np.random.Generator
) -> dict[str, Any]:
  """Returns the delays in streams that shift after `quiet` answers.

  Streams with an alarm before the shift are left out.
  """
  state = drift.init(alpha, streams=(num_streams,))
  for _ in range(quiet):
    state = drift.update(state, rng.random(num_streams) < alpha)
  is_early = drift.is_alarm(state, DELTA)
  delay = np.full(num_streams, np.inf)
  for k in range(1, 4 * MOST_DELAY + 1):
    state = drift.update(state, rng.random(num_streams) < alpha + SHIFT)
    raised = drift.is_alarm(state, DELTA) & np.isinf(delay)
    delay[raised] = k
  # Streams without an alarm count with the longest delay that was looked at.
  delay = np.minimum(delay[~is_early], 4 * MOST_DELAY)
  return {
      'quiet': quiet,
      'median': float(np.median(delay)),
      'late': float(np.quantile(delay, 0.9)),
      'within': float(np.mean(delay <= MOST_DELAY)),
  }
