"""Which operating points a calibration makes, and which are not allowed."""

from collections.abc import Sequence
import dataclasses

from routing.calibration import risks as risks_lib

# A promise of cost counts a problem that costs more as this, in units of its
# all-large cost: no sample bounds the mean of a quantity without a cap.
COST_CAP = 2.0
# Procedures by the kind of the source of `prove`; other kinds have all of them.
# Recorded outcomes have a test of their own (`off_policy_risks`). Live outcomes
# are collected anew for each sample, but 'growing' must keep the outcomes that
# it has bet on.
_PROCEDURES_OF = {
    'recorded': ('fixed_sequence',),
    'live': ('fixed_sequence', 'bonferroni'),
}


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
  """The operating points that a calibration should make.

  budgets: mean costs. Each gives the most accurate threshold within it on
    `select`, without a promise.
  alphas: relative losses to promise.
  confident_budgets: mean costs to promise.
  loss_and_cost: pairs of a loss and a cost to promise, each with its own
    probability.
  delta: probability that a promise is broken, in (0, 1).
  is_joint: whether the two promises of a pair hold together with probability
    1 - delta.
  num_choices: number of proven points or seeds that somebody chooses among
    afterwards; each is tested at delta / num_choices.
  group_by: if not empty, each loss is also promised to every group of problems:
    'subject', or a key of `Problem.meta`.
  joint_starts: if not empty, each loss is also promised with one threshold per
    group of decisions; the groups begin at these decisions, rising from 0.
  num_thresholds: number of thresholds that are tested, besides -inf and inf.
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
      _check_within(
          name, values, 'numbers in (0, 1], since the large model alone costs 1'
      )
    losses = {
        'alphas': self.alphas,
        'loss_and_cost': [alpha for alpha, _ in self.loss_and_cost],
    }
    for name, values in losses.items():
      _check_within(name, values, 'numbers in (0, 1)', is_one_allowed=False)
    starts = list(self.joint_starts)
    if starts and (starts[0] != 0 or sorted(set(starts)) != starts):
      raise ValueError(
          f'calibration.joint_starts is {tuple(starts)}; allowed: strictly '
          'rising numbers, the first of them 0, e.g. (0, 3).'
      )
    if self.num_thresholds < 1:
      raise ValueError(
          f'calibration.num_thresholds is {self.num_thresholds}; it must be at '
          'least 1.'
      )
    # Checks delta and num_choices, which `Risk` does when it is made. The test
    # named here does not matter.
    self.risks('betting')

  def check_source(self, kind: str) -> None:
    """Raises if promises cannot be tested on outcomes of this kind.

    Args:
      kind: of the source of `prove`: 'known', 'recorded' or 'live'.

    Raises:
      ValueError: naming the field, and what is allowed.
    """
    allowed = _PROCEDURES_OF.get(kind, risks_lib.PROCEDURES)
    if self.procedure not in allowed:
      raise ValueError(
          f'calibration.procedure is {self.procedure!r}, but the outcomes are '
          f'{kind}; allowed: {", ".join(allowed)}.'
      )
    # Both need the outcome of every threshold on every problem, at no cost.
    for field in ('group_by', 'joint_starts') if kind != 'known' else ():
      if getattr(self, field):
        raise ValueError(
            f'calibration.{field} needs the known outcome of every possible '
            f'decision, but the outcomes are {kind}. Leave it empty.'
        )
    # `off_policy_risks` uses one side of a two-sided interval at 2 delta, which
    # must be below 1.
    deltas = [x.delta for risks in self.risks('betting') for x in risks]
    if kind == 'recorded' and max(deltas, default=0) >= 0.5:
      raise ValueError(
          f'calibration.delta is {self.delta}; it must be below 0.5 if '
          'calibration.source is recorded.'
      )

  def risks(self, loss_test: str) -> list[tuple[risks_lib.Risk, ...]]:
    """Returns the risks of each promise; the risks of one tuple are one point.

    Args:
      loss_test: of `risks.P_VALUES`, the test of a relative loss.

    Returns:
      A tuple of one or two risks for each promise: first `alphas`, then
      `confident_budgets`, then `loss_and_cost`.
    """
    loss = lambda x: risks_lib.Risk('loss', x, self.delta, p_value=loss_test)
    # Costs are neither 0 nor 1, and their variance is small: betting is far
    # tighter than Hoeffding-Bentkus.
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
  """Raises ValueError unless all are in (0, 1], or in (0, 1).

  Args:
    name: field of `CalibrationSettings`.
    allowed: the range in words, for the error.
  """
  for value in values:
    if not 0 < value <= 1 or (value == 1 and not is_one_allowed):
      raise ValueError(
          f'calibration.{name} contains {value}; allowed: {allowed}.'
      )
