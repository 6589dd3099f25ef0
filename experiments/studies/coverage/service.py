"""Promises in service: long-run loss; how soon and how often alarms come."""

from typing import Any

import numpy as np

from experiments.studies.coverage import streams
from routing.calibration import drift
from routing.calibration import online

ALPHAS = (0.02, 0.05, 0.1, 0.2)
DELTA = 0.1
SHIFT = 0.1
MOST_OFF = 0.005
MOST_DELAY = 300
_QUIETS = (0, 500, 5_000)


def long_run(num: int, num_streams: int, seed: int) -> list[dict[str, Any]]:
  """Mean loss of `num_streams` streams of `num` graded answers, by kind.

  Returns:
    For each kind of stream and alpha: `loss`, the mean over streams; `off`, how
    far the worst of them is from alpha; `still`, the mean loss of a threshold
    that suits the first tenth of the first stream and then stands still.
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
      # A problem is lost below kappa, so the share alpha of a part is lost at
      # its alpha-quantile.
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
  """False alarms on quiet streams, and delays after a shift of ten points.

  Returns:
    For each alpha: `false`, how many of `num_streams` quiet streams of `num`
    answers ever raised an alarm; and by how many answers were quiet before the
    shift, the `median` and `late` (0.9 quantile) delay in answers, and
    `within`, the share of alarms within `MOST_DELAY`; `most`, what no alarm of
    this kind could exceed there (`drift.most_within`).
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
  """Of streams that shift after `quiet` answers, without an alarm so far."""
  state = drift.init(alpha, streams=(num_streams,))
  for _ in range(quiet):
    state = drift.update(state, rng.random(num_streams) < alpha)
  is_early = drift.is_alarm(state, DELTA)
  delay = np.full(num_streams, np.inf)
  for k in range(1, 4 * MOST_DELAY + 1):
    state = drift.update(state, rng.random(num_streams) < alpha + SHIFT)
    raised = drift.is_alarm(state, DELTA) & np.isinf(delay)
    delay[raised] = k
  delay = np.minimum(delay[~is_early], 4 * MOST_DELAY)
  return {
      'quiet': quiet,
      'median': float(np.median(delay)),
      'late': float(np.quantile(delay, 0.9)),
      'within': float(np.mean(delay <= MOST_DELAY)),
  }
