"""What tables, plots and pages have in common: names, colours, range of costs.

The colours are the palette of Okabe and Ito, which colour-blind readers can
distinguish. Line styles help to distinguish the methods without colour.
"""

REFERENCE = 'policy'  # All other methods are compared with this one.
# Method name in the results -> label in the tables, in the order of the rows.
LABELS = {
    REFERENCE: 'learned policy',
    'fitted Q, trees': 'fitted Q, boosted trees',
    'fitted Q, linear': 'fitted Q, linear',
    'boosting': 'gradient boosting',
    'confidence': 'confidence threshold',
    'confidence, mean': 'confidence threshold, mean of the step',
    'confidence, first token': 'confidence threshold, first token',
    'step score': 'step score threshold (PRM)',
    'step score, free': 'step score threshold (PRM), PRM not charged',
    'fixed step': 'best fixed hand-over step',
    'random per question': 'random per question',
    'random per step': 'random per step',
    'oracle': 'oracle',
}


def is_policy(name: str) -> bool:
  """Returns whether a row is the learned policy, in whichever protocol.

  Rows of other protocols are called e.g. 'learned policy, redraft'.
  """
  return name == REFERENCE or name.startswith(f'{LABELS[REFERENCE]}, ')


# Cost metric -> what it counts.
COST_LABELS = {
    'price': 'price',
    'flops': 'FLOPs',
    'decoded_tokens': 'written tokens × parameters',
    'latency': 'seconds',
}
# Curves are of interest up to this cost, as a fraction of that of the largest
# model alone. Policies that cost far more would leave little space for the
# others in a plot. `page/charts.js` ends at the same cost.
MAX_COST = 1.3

INK, FAINT, GRID = '#222222', '#BBBBBB', '#EEEEEE'
# How the curve of a method is drawn. The first entry is drawn last and thus on
# top; only the policy lies above it, by a higher zorder.
STYLES = {
    'oracle': dict(color='#000000', linestyle=':', linewidth=1.2),
    REFERENCE: dict(color='#0072B2', linestyle='-', linewidth=2.4),
    'fitted Q, trees': dict(color='#009E73', linestyle='-', linewidth=1.4),
    'fitted Q, linear': dict(color='#56B4E9', linestyle='-', linewidth=1.2),
    'boosting': dict(color='#CC79A7', linestyle='-.', linewidth=1.2),
    'confidence': dict(color='#D55E00', linestyle='--', linewidth=1.5),
    'step score': dict(color='#F0E442', linestyle='-', linewidth=1.4),
    'step score, free': dict(color='#F0E442', linestyle=':', linewidth=1.4),
    'fixed step': dict(color='#E69F00', linestyle='-.', linewidth=1.4),
    'random per step': dict(color='#7F7F7F', linestyle='--', linewidth=1.0),
}
# The same for methods that the plots of a pipeline leave out.
MORE_STYLES = {
    'random per question': dict(color='#7F7F7F', linestyle=':', linewidth=1.2),
    'confidence, mean': dict(color='#D55E00', linestyle=':', linewidth=1.2),
    'confidence, first token': dict(
        color='#D55E00', linestyle='-.', linewidth=1.2
    ),
}
# For methods that have no style: the rest of the palette.
OTHER_COLORS = ('#009E73', '#56B4E9', '#CC79A7', '#E69F00')
