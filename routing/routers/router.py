"""The interfaces of routers: live decisions, and what comparisons ask of them.

A `Router` decides at step boundaries; an `Answerer` writes whole answers. A
`Method` is what a comparison runs: it says what it needs, is fitted on `train`,
and gives families, i.e. routers that differ only in one number, the knob.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any
from typing import Protocol

import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import engine as engine_lib
from routing.features import embedding as embedding_lib
from routing.features import observation
from routing.grading import equivalence
from routing.outcomes import live_answers
from routing.outcomes import refusal
from routing.outcomes import sources
from routing.rollout import step_requests
from routing.routers import informants


class Router(Protocol):
  """Chooses the route that writes the next step, at each step boundary.

  A router sees only the trace, which is the answer so far. It must not remember
  earlier calls, because the driver runs many traces concurrently, in any order.
  """

  def decide(self, trace: types.Trace) -> types.Decision:
    """Returns the route that writes the next step, and the hand-over score."""
    ...


class Policy(Protocol):
  """Gives the action probability of each route, from which callers sample."""

  def action_probabilities(self, trace: types.Trace) -> np.ndarray:
    """Returns `[A]` floats in [0, 1] that sum to 1, one per route."""
    ...


class Answerer(Protocol):
  """Writes whole answers, e.g. a vote over samples or a cascade of models.

  It asks models through `step_requests.write`, so that requests have the seeds
  of the driver, and records every call.
  """

  async def answer(
      self,
      problem: types.Problem,
      engines: Sequence[engine_lib.Engine],
      *,
      seed: int,
      sampling: step_requests.Sampling,
      grade: equivalence.Grader,
  ) -> types.Trajectory:
    """Returns the answer with all of its calls; `decisions` may be empty."""
    ...


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a method must be given; declared, because each of it has a price.

  protocol: the decision process of its decisions; None = it makes none and
    writes whole answers. A router of whole questions has `escalate`, `commit`:
    it decides at step 0, before anything is written, and pays for no draft.
  log_probs: it reads the log-probabilities of steps.
  step_score: a step scorer, whose calls it charges as probes.
  judge: a model that judges text, whose calls it charges as probes.
  embedding: an embedding of the question; where a model computes it, its tokens
    are charged as probes.
  probe: text that a writer continues only to inform it, charged as probes.
  tokens: the models' next-token distributions, which only the embedded back end
    gives.
  samples: answers that it samples per problem at most; 1 = none.
  """

  protocol: protocols.Protocol | None
  log_probs: bool = False
  step_score: bool = False
  judge: bool = False
  embedding: bool = False
  probe: bool = False
  tokens: bool = False
  samples: int = 1

  def __post_init__(self):
    if self.samples < 1:
      raise ValueError(f'samples is {self.samples}; allowed: 1 or more.')

  @property
  def draft(self) -> bool:
    """True if it sees, and pays for, a draft of each step before it decides."""
    return self.protocol is not None and self.protocol.has_draft

  def names(self) -> list[str]:
    """Returns the name of each need, e.g. ['draft', 'judge']; [] for none."""
    given = [
        ('draft', self.draft),
        ('log-probabilities', self.log_probs),
        ('step score', self.step_score),
        ('judge', self.judge),
        ('embedding', self.embedding),
        ('probe', self.probe),
        ('next-token distributions', self.tokens),
        (f'{self.samples} samples', self.samples > 1),
    ]
    return [name for name, is_needed in given if is_needed]

  def in_words(self) -> str:
    """Returns the needs as text for tables, e.g. 'draft, judge'; '-': none."""
    return ', '.join(self.names()) or '-'


COMMIT = protocols.Protocol('escalate', 'commit')
PEEK = protocols.Protocol('escalate', 'peek')
SWITCH = protocols.Protocol('switch')
REDRAFT = protocols.Protocol('redraft')


@dataclasses.dataclass(frozen=True)
class Sample:
  """Problems with known outcomes, as methods learn from them.

  source: outcomes of all decisions in the method's protocol.
  features: the features of `source.table.decisions`.
  accounting: models, prices, and the cost metric of the comparison; specs
    beyond the A writers are models that only inform, e.g. an embedding.
  small_answers: `[N]` texts, the whole answers of the smallest model alone.
  small_correct: `[N]` float in [0, 1], their grades.
  small_calls, large_calls: `[N]` calls, by which the smallest and the largest
    model write their whole answers alone, each in one request.
  embed: a sentence embedding; None = the comparison offers none.
  small_steps: `[N]` texts of the steps of the small model's whole answers.
  scorer: scores steps, e.g. a process reward model; None = there is none.
  judge: scores steps by the largest model, where it cannot judge in words; None
    = nothing does.
  follows_words: whether the models reply to questions outside the task, so that
    they can judge in words.
  gives_tokens: whether all models give next-token distributions.
  answering: how models answer live, for methods that learn from answers of
    their own; None = no model can be asked.
  num_live: how many of the first problems such methods may ask about; None =
    all.
  """

  source: sources.Known
  features: observation.FeatureConfig
  accounting: costs.Accounting
  small_answers: tuple[str, ...]
  small_correct: np.ndarray
  small_calls: tuple[types.Call, ...]
  large_calls: tuple[types.Call, ...]
  embed: embedding_lib.Embedding | None = None
  small_steps: tuple[tuple[str, ...], ...] = ()
  scorer: informants.Scorer | None = None
  judge: informants.Scorer | None = None
  follows_words: bool = False
  gives_tokens: bool = False
  answering: live_answers.Answering | None = None
  num_live: int | None = None

  @property
  def live_problems(self) -> Sequence[types.Problem]:
    """The problems that methods may have answered, to learn from."""
    return self.source.problems[: self.num_live]

  @property
  def questions(self) -> tuple[str, ...]:
    """`[N]` texts of the questions."""
    return tuple(x.question for x in self.source.problems)

  @property
  def large_correct(self) -> np.ndarray:
    """`[N]`, the grades of the largest model alone."""
    return self.source.table.large_correct

  @property
  def num_routes(self) -> int:
    """A, the number of models that write."""
    return self.source.table.num_routes

  @property
  def metric(self) -> str:
    """The cost metric in which methods are compared."""
    return self.accounting.metric

  def check_tokens(self, name: str) -> None:
    """Refuses a method that needs next-token distributions if none are given.

    Args:
      name: of the method.

    Raises:
      refusal.Refusal: if a model does not give them.
    """
    if not self.gives_tokens:
      raise refusal.Refusal(
          f'{name} needs the next-token distributions of all models; only the '
          'embedded back end gives them.',
          None,
          note='',
      )

  def informing_route(self, name: str) -> int:
    """Returns the route by which a model that only informs is charged.

    Raises:
      ValueError: if the comparison has no such model.
    """
    extra = self.accounting.specs[self.num_routes :]
    names = [spec.name for spec in extra]
    if name not in names:
      raise ValueError(
          f'The comparison prices no model {name!r}; it has {names}.'
      )
    return self.num_routes + names.index(name)


class Family(Protocol):
  """Routers that differ only in their knob, for `Method.fit` to return.

  A family has `score`, as in `outcomes.sources.Family`, or `knobs`, or both.
  With `score` the knob is a threshold, and the family is evaluated from records
  where there are records of its protocol. With `knobs` these are the values
  that are tried, from the cheapest to the dearest. A system of whole answers
  that needs no more than what the models write alone may have `replay(sample,
  knobs)`, which returns the `outcomes.live_answers.Answer` of each problem, for
  each knob, as a live run would.

  fingerprint: identifies the family in caches of answers.

  Answers are found again under the fingerprint and the code of the method. If
  they depend on no code of the method's own, the family may have `is_shared` =
  True; methods that apply the same rule then share them.
  """

  fingerprint: str

  def at(self, knob: float) -> Router | Answerer:
    """Returns the live router at one value of the knob."""
    ...


Fit = Callable[..., Sequence[Family]]


@dataclasses.dataclass(frozen=True)
class Method:
  """A routing method, as a comparison runs it.

  name: as in tables.
  needs: see `Needs`.
  fit: `fit(train, *, setting, seed)` learns from a `Sample` of `train` and
    returns one or more families. It is a pure function of its arguments.
  settings: hyper-parameters to try on `select`, the most plausible first. Every
    method is tried with the same number of them, or with all if it has fewer.
  forms_hull: True if only the knobs on the concave hull of `select` form its
    curve; False if all do, e.g. where the hull would be another method.
  fits_in_parallel: whether several fits may run at the same time, in threads;
    only of a method that asks no model.
  lowest, highest: what the extremes of the knob equal: 'small' or 'large' (the
    text of this model alone), or '' if neither. Of a threshold the lowest cost
    is at inf and the highest at -inf; of `knobs` at the first and the last.
  """

  name: str
  needs: Needs
  fit: Fit
  settings: Sequence[Mapping[str, Any]] = ({},)
  forms_hull: bool = True
  fits_in_parallel: bool = False
  lowest: str = 'small'
  highest: str = 'large'

  def __post_init__(self):
    if not self.settings:
      raise ValueError(f'{self.name} has no settings; allowed: one or more.')
    for end in (self.lowest, self.highest):
      if end not in ('small', 'large', ''):
        raise ValueError(
            f"{self.name} has the extreme {end!r}; allowed: 'small', 'large' "
            "or ''."
        )


def draw(*key: object) -> float:
  """Returns a uniform number in [0, 1) that is a pure function of the key.

  The number is a hash of the key rather than the next output of a generator. A
  trace that is resumed after an interruption therefore sees the same random
  numbers.
  """
  # No part contains the separator '\0', so that (1, 23) and (12, 3) get
  # different hashes.
  text = '\0'.join(map(str, key)).encode()
  digest = hashlib.blake2b(text, digest_size=8).digest()
  # A float64 holds 53 bits exactly. With all 64 bits of the hash the quotient
  # could round up to 1.0.
  return (int.from_bytes(digest, 'big') >> 11) / 2**53
