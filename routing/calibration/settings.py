"""Settings of a calibration: the operating points to make, and their checks."""

from collections.abc import Sequence
import dataclasses

from routing.calibration import risks as risks_lib

# A promise of cost is about min(cost, COST_CAP), where a problem's cost is in
# units of its all-large cost: no sample bounds the mean of a quantity without a
# cap.
COST_CAP = 2.0
# Allowed procedures by the kind of the outcome source of `prove`; kinds that
# are not listed allow every procedure. Recorded outcomes have a test of their
# own (`off_policy_risks`). Live outcomes are collected anew for each sample,
# but 'growing' must keep the outcomes on which it has already bet.
_PROCEDURES_OF = {
    'recorded': ('fixed_sequence',),
    'live': ('fixed_sequence', 'bonferroni'),
}


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
  """The operating points that a calibration should make.

  budgets: mean costs. Each budget makes one point without a promise: the
    threshold that is most accurate on `select` at a mean cost within the
    budget.
  alphas: relative losses to promise, one point each.
  confident_budgets: mean costs to promise, one point each.
  loss_and_cost: pairs (loss, cost) to promise at one point, each of the two
    with its own probability.
  delta: probability that a promise is broken, in (0, 1).
  is_joint: True: both promises of a pair hold together with probability
    1 - delta.
  num_choices: number of proven points or training seeds that somebody chooses
    among afterwards; each is tested at delta / num_choices.
  group_by: if not empty, each of `alphas` is also promised to every group of
    problems: 'subject', or a key of `Problem.meta`.
  joint_starts: if not empty, each of `alphas` is also promised with one
    threshold per group of decisions; the groups begin at these decision
    numbers, rising from 0.
  num_thresholds: number of thresholds that are tested, besides -inf and inf.
  procedure: one of `risks.PROCEDURES`.

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
    # Making the risks checks delta and num_choices, in `Risk`. The name of the
    # test does not matter for that.
    self.risks('betting')

  def check_source(self, kind: str) -> None:
    """Raises ValueError if outcomes of this kind cannot support a setting.

    Args:
      kind: how the outcomes of the `prove` problems are collected: 'known',
        'recorded' or 'live'; see `outcomes.sources`.

    Raises:
      ValueError: naming the field and the allowed values.
    """
    allowed = _PROCEDURES_OF.get(kind, risks_lib.PROCEDURES)
    if self.procedure not in allowed:
      raise ValueError(
          f'calibration.procedure is {self.procedure!r}, but the outcomes are '
          f'{kind}; allowed: {", ".join(allowed)}.'
      )
    # Groups and joint thresholds need the outcome of every threshold on every
    # problem, which only known outcomes have without running the models again.
    for field in ('group_by', 'joint_starts') if kind != 'known' else ():
      if getattr(self, field):
        raise ValueError(
            f'calibration.{field} needs the known outcome of every possible '
            f'decision, but the outcomes are {kind}. Leave the field empty.'
        )
    # `off_policy_risks` uses one side of a two-sided interval at level 2 delta,
    # and 2 delta must be below 1.
    deltas = [x.delta for risks in self.risks('betting') for x in risks]
    if kind == 'recorded' and max(deltas, default=0) >= 0.5:
      raise ValueError(
          f'calibration.delta is {self.delta}; it must be below 0.5 if '
          'calibration.source is recorded.'
      )

  def risks(self, loss_test: str) -> list[tuple[risks_lib.Risk, ...]]:
    """Returns the risks that each proven operating point must keep.

    Args:
      loss_test: the test of a relative loss, one of `risks.P_VALUES`.

    Returns:
      A tuple of one or two risks per point: first the points of `alphas`, then
      of `confident_budgets`, then of `loss_and_cost`.
    """
    loss = lambda x: risks_lib.Risk('loss', x, self.delta, p_value=loss_test)
    # A cost takes more values than 0 and 1, so the binomial test does not
    # apply. Its variance is small, where betting is far tighter than
    # Hoeffding-Bentkus.
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
  """Raises ValueError unless all values are in (0, 1], or in (0, 1).

  Args:
    name: the field of `CalibrationSettings` that holds the values.
    values: numbers to check.
    allowed: the range in words, for the error.
    is_one_allowed: whether 1 itself is allowed.
  """
  for value in values:
    if not 0 < value <= 1 or (value == 1 and not is_one_allowed):
      raise ValueError(
          f'calibration.{name} contains {value}; allowed: {allowed}.'
      )
