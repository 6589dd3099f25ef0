"""Learners that are compiled once where a test uses them often."""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp

from routing.training import fit
from routing.training import validation


@functools.partial(jax.jit, static_argnums=0)
def logits(network, params, features):
  """Returns those of the first of K policies; one program, not many."""
  params = jax.tree.map(lambda x: x[0], params)
  return network.apply({'params': params}, features)


@contextlib.contextmanager
def shared(config, num_routes, num_features, seed):
  """Lets every `fit.fit` within use one jitted step and one jitted validation.

  Each run still begins with the initial weights, and reads its own checkpoint.

  Args:
    config: of all runs; its numbers of steps may differ between them.
    num_routes, num_features, seed: as in `fit.make_learner`.
  """
  network, start, step = fit.make_learner(
      config, num_routes, num_features, seed
  )
  eval_step = validation.make_eval_step(config, network)

  def make_learner(*_):
    # A copy, because the step donates the buffers of the state.
    return network, jax.tree.map(jnp.copy, start), step

  with (
      mock.patch.object(fit, 'make_learner', make_learner),
      mock.patch.object(validation, 'make_eval_step', lambda *_: eval_step),
  ):
    yield
