"""Which points are wanted of a calibration, and what cannot be wanted."""

from collections.abc import Sequence
import dataclasses

from routing.calibration import risks as risks_lib

COST_CAP = 2.0  # A promise of cost counts dearer problems as this.
# Recorded outcomes have a test of their own (`off_policy_risks`). Live ones are
# answered anew for each sample, where growing must keep what it has bet on.
_PROCEDURES_OF = {
    'recorded': ('fixed_sequence',),
    'live': ('fixed_sequence', 'bonferroni'),
}


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
  """Which points are wanted.

  budgets: mean costs; of each the most accurate threshold on `select` within
    it, without a promise.
  alphas: relative losses to promise.
  confident_budgets: mean costs to promise.
  loss_and_cost: pairs of a loss and a cost to promise, each with its own
    probability.
  delta: chance that a promise is broken.
  is_joint: the two of a pair are promised together with probability 1 - delta.
  num_choices: how many proven points or seeds are chosen among afterwards; each
    is then tested at delta / among.
  group_by: promises each loss to every group of problems, too: 'subject', or a
    key of `Problem.meta`; empty = no groups.
  joint_starts: promises each loss by a threshold for each group of decisions,
    too, beginning at these; empty = not.
  num_thresholds: thresholds that are tested besides both ends.
  procedure: of `risks.PROCEDURES`.

  Raises:
    ValueError: on a value that is not allowed.
  """

  budgets: Sequence[float] = ()
  alphas: Sequence[float] = ()
  confident_budgets: Sequence[float] = ()
  loss_and_cost: Sequence[tuple[float, float]] = ()
  delta: float = 0.1
  is_joint: bool = False
  num_choices: int = 1
  group_by: str = ''
  joint_starts: Sequence[int] = ()
  num_thresholds: int = 200
  procedure: str = 'fixed_sequence'

  def __post_init__(self):
    if self.procedure not in risks_lib.PROCEDURES:
      raise ValueError(
          f'calibration.procedure is {self.procedure!r}; allowed: '
          f'{", ".join(risks_lib.PROCEDURES)}.'
      )
    budgets = {
        'budgets': self.budgets,
        'confident_budgets': self.confident_budgets,
        'loss_and_cost': [budget for _, budget in self.loss_and_cost],
    }
    for name, values in budgets.items():
      _check_within(name, values, 'above 0, at most 1: the large model costs 1')
    losses = {
        'alphas': self.alphas,
        'loss_and_cost': [alpha for alpha, _ in self.loss_and_cost],
    }
    for name, values in losses.items():
      _check_within(name, values, 'above 0, below 1', is_one_allowed=False)
    starts = list(self.joint_starts)
    if starts and (starts[0] != 0 or sorted(set(starts)) != starts):
      raise ValueError(
          f'calibration.joint_starts is {tuple(starts)}; allowed: numbers that '
          'rise from 0.'
      )
    if self.num_thresholds < 1:
      raise ValueError(
          f'calibration.num_thresholds is {self.num_thresholds}; allowed: >= 1.'
      )
    self.risks('betting')  # Raises on delta and among.

  def check_source(self, kind: str) -> None:
    """Refuses what outcomes of a kind cannot be tested for.

    Args:
      kind: of the source of `prove`.

    Raises:
      ValueError: naming the field, and what is allowed.
    """
    allowed = _PROCEDURES_OF.get(kind, risks_lib.PROCEDURES)
    if self.procedure not in allowed:
      raise ValueError(
          f'calibration.procedure is {self.procedure!r}, but the outcomes are '
          f'{kind}; allowed: {", ".join(allowed)}.'
      )
    for field in ('group_by', 'joint_starts') if kind != 'known' else ():
      if getattr(self, field):
        raise ValueError(
            f'calibration.{field} needs to know every way through a problem; '
            f'the outcomes here are {kind}. It must be empty.'
        )
    deltas = [x.delta for risks in self.risks('betting') for x in risks]
    if kind == 'recorded' and max(deltas, default=0) >= 0.5:
      raise ValueError(
          f'calibration.delta is {self.delta}; where outcomes are recorded '
          'allowed: below 0.5.'
      )

  def risks(self, loss_test: str) -> list[tuple[risks_lib.Risk, ...]]:
    """What is promised together, for each named promise."""
    loss = lambda x: risks_lib.Risk('loss', x, self.delta, p_value=loss_test)
    cost = lambda x: risks_lib.Risk('cost', x, self.delta, COST_CAP, 'betting')
    each = (
        [(loss(alpha),) for alpha in self.alphas]
        + [(cost(budget),) for budget in self.confident_budgets]
        + [(loss(alpha), cost(budget)) for alpha, budget in self.loss_and_cost]
    )
    if self.is_joint:
      each = [risks_lib.shared(risks, self.delta) for risks in each]
    return [
        tuple(risks_lib.corrected(risk, self.num_choices) for risk in risks)
        for risks in each
    ]


def _check_within(
    name: str,
    values: Sequence[float],
    allowed: str,
    is_one_allowed: bool = True,
) -> None:
  """Raises ValueError unless all are in (0, 1], or in (0, 1)."""
  for value in values:
    if not 0 < value <= 1 or (value == 1 and not is_one_allowed):
      raise ValueError(f'calibration.{name} holds {value}; allowed: {allowed}.')
