"""Scripted models that count; larger ones make fewer errors.

The question '7:3' asks to count 3 steps up from 7; the right answer is 10. Each
step states the last number of the trace plus one, or plus two where the writer
makes an error (a slip). Slips are never corrected. So an answer is right if and
only if none of its steps slipped, which tests can check without a grader.
"""

import asyncio
import dataclasses
import functools
import zlib

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import scripted
from routing.grading import equivalence
from routing.rollout import behaviour_rollouts
from routing.rollout import collect
from routing.rollout import step_requests
from routing.routers import behaviour as behaviour_lib

SPECS = (
    costs.RouteSpec('small', 1_000, 2, 8, 0.2, 0.02, 1.0),
    costs.RouteSpec('medium', 4_000, 3, 12, 0.8, 0.08, 4.0),
    costs.RouteSpec('large', 9_000, 4, 16, 1.8, 0.18, 9.0),
)


def make_problems(count: int) -> list[types.Problem]:
  """Returns problems of 1 to 5 steps."""
  problems = []
  for i in range(count):
    start, num_steps = 10 + i, 1 + i % 5
    problems.append(
        types.Problem(
            id=f'count/{i}',
            question=f'{start}:{num_steps}\n',
            answer=str(start + num_steps),
            subject=f'{num_steps} steps',
            meta={'start': start},
        )
    )
  return problems


def slips(question: str, step: int, route: int, seed: int, every: int) -> bool:
  """Returns whether a step slips: one in `every`, chosen by a hash."""
  key = f'{question}|{step}|{route}|{seed}'.encode()
  return zlib.crc32(key) % every == 0


def count_up(route: int, every: int) -> scripted.Script:
  """Returns the script of one model; if sampled, slips depend on the seed."""

  def script(request: scripted.Asked) -> str:
    start, num_steps = map(int, request.question.strip().split(':'))
    done = request.trace.split('\n\n')[:-1]
    value = int(done[-1]) if done else start
    seed = request.seed if request.temperature else 0
    text = ''
    for step in range(len(done), num_steps):
      value += 1 + slips(request.question, step, route, seed, every)
      text += f'{value}\n\n'
    return text + f'#### {value}'

  return script


def make_engines(
    num_routes: int = 2, **kwargs
) -> list[scripted.ScriptedEngine]:
  """Returns engines of routes 0..num_routes-1; larger ones slip less."""
  return [
      scripted.ScriptedEngine(
          spec.name,
          route,
          count_up(route, every=3 + 6 * route),
          hidden_size=4 if route == 0 else 0,
          **kwargs,
      )
      for route, spec in enumerate(SPECS[:num_routes])
  ]


def make_ladders(count: int, num_routes: int = 3) -> list[types.Ladder]:
  """Returns ladders of the scripted models."""
  got = {}
  asyncio.run(
      collect.collect_ladders(
          make_problems(count),
          make_engines(num_routes),
          got.__setitem__,
          plan=collect.Plan(step_requests.Sampling()),
          grade=equivalence.exact,
          concurrency=8,
      )
  )
  return [got[i] for i in range(count)]


def make_rollouts(
    count: int,
    *,
    protocol: str = 'redraft',
    num_routes: int = 3,
    num_trajectories: int = 2,
    concurrency: int = 8,
    behaviour: behaviour_rollouts.Behaviour | None = None,
    **kwargs,
) -> list[types.Rollouts]:
  """Returns rollouts of the scripted models, by default at random rates."""
  got = {}
  asyncio.run(
      behaviour_rollouts.collect_rollouts(
          make_problems(count),
          make_engines(num_routes, **kwargs),
          got.__setitem__,
          behaviour=behaviour or behaviour_lib.random_rate(num_routes, seed=0),
          plan=behaviour_rollouts.Plan(
              protocols.Protocol(protocol),
              step_requests.Sampling(),
              num_trajectories,
          ),
          accounting=costs.Accounting(SPECS[:num_routes], reference=1.0),
          grade=equivalence.exact,
          concurrency=concurrency,
      )
  )
  return [got[i] for i in range(count)]


def plain(value):
  """Returns a record as nested tuples and dicts that compare with ==."""
  if dataclasses.is_dataclass(value):
    return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
    }
  if isinstance(value, np.ndarray):
    return value.dtype.str, value.shape, value.tolist()
  if isinstance(value, tuple):
    return tuple(map(plain, value))
  return value


# Collects greedy ladders, graded by equality; for `collect_missing`.
collect_ladders = functools.partial(
    collect.collect_ladders,
    plan=collect.Plan(step_requests.Sampling()),
    grade=equivalence.exact,
)
