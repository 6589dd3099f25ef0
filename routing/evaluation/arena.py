"""What all methods of a comparison meet: problems, models and accounting."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

from routing import costs
from routing import protocols
from routing import types
from routing.evaluation import entries as entries_lib
from routing.evaluation import methods as methods_lib
from routing.outcomes import live_answers
from routing.routers import router as router_lib


@dataclasses.dataclass(frozen=True)
class Arena:
  """The problems, models and accounting that all methods meet.

  samples: (split, protocol) -> the problems of `train`, `select` or `test` with
    known outcomes in `escalate`, either view. The tables' costs also count
    tokens, under the names `TOKENS`.
  alone: split -> what the models do alone, on `select` and `test`.
  accounting: models and prices; specs beyond the writers only inform.
  informing: name of a need -> the model that only informs whoever declares it;
    the last of the specs of `accounting`, in their order.
  answering: seed -> how engines answer live; None = no engine can be asked.
  num_live: split -> number of problems that are answered live; of `train`, to
    learn from. A split that is not named is answered as a whole.
  folder: where live answers are kept; None = nowhere.
  traces: traces of `escalate`, either view, from records; decisions are timed
    on them.
  num_timed: test problems on whose traces decisions are timed elsewhere.
  grid_size: thresholds per family, for methods that name no knobs.
  """

  samples: Callable[[str, protocols.Protocol], router_lib.Sample]
  alone: Mapping[str, entries_lib.Alone]
  accounting: costs.Accounting
  informing: Mapping[str, costs.RouteSpec] = dataclasses.field(
      default_factory=dict
  )
  answering: Callable[[int], live_answers.Answering] | None = None
  num_live: Mapping[str, int] = dataclasses.field(default_factory=dict)
  folder: pathlib.Path | None = None
  traces: Callable[[protocols.Protocol], Sequence[types.Trace]] = (
      lambda protocol: ()
  )
  num_timed: int = 25
  grid_size: int = methods_lib.GRID_SIZE

  def answering_of(
      self, seed: int, method: router_lib.Method
  ) -> live_answers.Answering:
    """Returns how engines answer a method live; there must be engines."""
    # Greedy answers are the same for all seeds, and are asked for once.
    return dataclasses.replace(
        self.answering(seed if method.needs.samples > 1 else 0),
        accounting=self.accounting,
        priced=self.priced(method.needs),
    )

  def priced(self, needs: router_lib.Needs) -> tuple[costs.RouteSpec, ...]:
    """Returns the models that a method may be charged for: those it declares.

    What is kept of a method depends on these only, so that a further scorer or
    embedding does not invalidate it.
    """
    num_writers = len(self.accounting.specs) - len(self.informing)
    declared = [
        spec for need, spec in self.informing.items() if getattr(needs, need)
    ]
    return (*self.accounting.specs[:num_writers], *declared)


def sample_protocol(method: router_lib.Method) -> protocols.Protocol:
  """Returns the view of `escalate` whose records a method learns from."""
  return router_lib.PEEK if method.needs.draft else router_lib.COMMIT
