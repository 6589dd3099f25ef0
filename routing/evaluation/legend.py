"""The words under the tables of `tables.py`."""

LEGEND = (
    'area: mean accuracy over costs .2 to .8, as fractions of the cost of the '
    'large model alone; a curve that starts at a higher cost is averaged from '
    'its start. policy minus method: difference of the areas, on the same '
    'problems. acc @b: accuracy of the curve at cost b. cost, loss and gain '
    '@b: test values of the policy and threshold with the best accuracy '
    'within a mean cost of b on select. cut @b: share of its answers that '
    'the token limit cut off; - where this was not recorded. loss: share of '
    'problems that only the large model alone gets right; gain: share that '
    'only the router gets right. gap recovered: share of the accuracy gap '
    'between the two models, averaged over all costs. cost for 95 % of gap: '
    'the lowest cost at which the curve recovers 95 % of that gap. headroom: 0 '
    'on the straight line '
    'between the two models, 1 at the oracle. random per question: one of the '
    'two models is drawn for the whole answer. random per step: the large '
    'model takes over with the same probability at every step.'
)
# Of `tables.MORE_COLUMNS`.
MORE = (
    'gap recovered @b: the same share at cost b. IBC gain @b: accuracy gained '
    'over the small model alone per unit of extra cost, relative to that of '
    'the large model alone, minus 1 (AutoMix). cost at p points lost: the '
    'lowest cost at which the curve is at most p percentage points below the '
    'large model alone. AIQ: mean accuracy of the hull of the curve over all '
    'costs between the two models (RouterBench). Of a figure that does not '
    'exist, and of a target that is never reached: -.'
)
