"""RouteLLM's matrix factorisation.

A question q has an embedding x, model m a vector v_m, and
  delta(m, q) = w . (v_m * (P^T x + b)),
where * is elementwise. The strong model s wins against the weak one with
probability sigmoid(delta(s, q) - delta(weak, q)).
Source: Ong et al. 2024, "RouteLLM", section 4.2, eq. 6.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from routing.routers import logistic


@dataclasses.dataclass(frozen=True)
class Factorisation:
  """The parameters of the matrix factorisation of two models.

  projection: P, `[E, D]`.
  offset: b, `[D]`.
  weak, strong: v of the two models, `[D]`.
  weights: w, `[D]`.
  """

  projection: np.ndarray
  offset: np.ndarray
  weak: np.ndarray
  strong: np.ndarray
  weights: np.ndarray

  def delta(self, vectors: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Returns `[N]`, delta of one model at `[N, E]` embeddings."""
    hidden = vectors @ self.projection + self.offset
    return (hidden * model) @ self.weights

  def probability(self, vectors: np.ndarray) -> np.ndarray:
    """Returns `[N]`, the probability that the strong model wins."""
    vectors = np.asarray(vectors, np.float64)
    return logistic.sigmoid(
        self.delta(vectors, self.strong) - self.delta(vectors, self.weak)
    )


def loss_and_gradient(
    model: Factorisation, vectors: np.ndarray, wins: np.ndarray, penalty: float
) -> tuple[float, Factorisation]:
  """Returns the penalised mean log-loss, and its gradient.

  Args:
    model: the parameters.
    vectors: `[N, E]` float64 embeddings.
    wins: `[N]` in {0, 1}, 1 where the strong model wins.
    penalty: half of it times the sum of squares of all parameters is added.
  """
  hidden = vectors @ model.projection + model.offset
  gap = model.strong - model.weak
  logits = (hidden * gap) @ model.weights
  # log(1 + e^z) - y z, in a form that does not overflow.
  loss = np.mean(np.logaddexp(0.0, logits) - wins * logits)
  error = (logistic.sigmoid(logits) - wins) / len(wins)  # d loss / d logits.
  to_hidden = error[:, None] * (gap * model.weights)
  to_gap = error @ hidden * model.weights
  gradient = Factorisation(
      projection=vectors.T @ to_hidden,
      offset=to_hidden.sum(axis=0),
      weak=-to_gap,
      strong=to_gap,
      weights=error @ hidden * gap,
  )
  parts = dataclasses.astuple(model)
  loss += 0.5 * penalty * sum(float(np.sum(x**2)) for x in parts)
  return float(loss), Factorisation(
      *(
          g + penalty * x
          for g, x in zip(dataclasses.astuple(gradient), parts, strict=True)
      )
  )


def fit(
    vectors: np.ndarray,
    wins: np.ndarray,
    *,
    rank: int,
    penalty: float,
    seed: int,
    max_iterations: int = 200,
) -> Factorisation:
  """Fits the factorisation by L-BFGS.

  Args:
    vectors: `[N, E]` embeddings of the questions.
    wins: `[N]` in {0, 1}, 1 where the strong model wins.
    rank: D, the length of the models' vectors.
    penalty: see `loss_and_gradient`.
    seed: of the first parameters.
    max_iterations: of L-BFGS.

  Raises:
    ValueError: if there is no question.
  """
  from scipy import optimize
  import threadpoolctl

  if not len(wins):
    raise ValueError('There are 0 questions to learn from; it takes 1 or more.')
  vectors = np.asarray(vectors, np.float64)
  wins = np.asarray(wins, np.float64)
  rng = np.random.default_rng(seed)
  size = vectors.shape[1]
  shapes = [(size, rank), (rank,), (rank,), (rank,), (rank,)]
  ends = np.cumsum([int(np.prod(shape)) for shape in shapes])

  def unpack(flat: np.ndarray) -> Factorisation:
    parts = np.split(flat, ends[:-1])
    return Factorisation(
        *(x.reshape(shape) for x, shape in zip(parts, shapes, strict=True))
    )

  def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
    loss, gradient = loss_and_gradient(unpack(flat), vectors, wins, penalty)
    parts = dataclasses.astuple(gradient)
    return loss, np.concatenate([np.ravel(x) for x in parts])

  # At zero all gradients but those of the offset vanish, so it starts beside.
  start = rng.normal(size=ends[-1]) / np.sqrt(rank)
  # The products are small: threads would only wait for one another.
  with threadpoolctl.threadpool_limits(1):
    found = optimize.minimize(
        objective,
        start,
        jac=True,
        method='L-BFGS-B',
        options={'maxiter': max_iterations},
    )
  return unpack(found.x)
