"""Says how many answers the token limit cut off, beside their accuracy."""

from collections.abc import Mapping
from typing import Any

from routing.evaluation import budgets
from routing.rollout import cut_answers


def in_title(share: float | None) -> str:
  """Returns the share of cut answers for a title; None = not recorded."""
  return f' (cut off: {"-" if share is None else f"{share:.1%}"})'


def warning(results: Mapping[str, Any]) -> str:
  """Returns a warning if the token limit decides the accuracy, else ''.

  It does where it cuts off more than a few of the answers of the small model
  alone, of the large model alone, or of the oracle.

  Args:
    results: content of `results.json`.
  """
  figures = results['cost_metrics'][results['cost_metric']]
  shares = {
      'the small model alone': figures['anchors']['small_cut'],
      'the large model alone': figures['anchors']['large_cut'],
  }
  if 'oracle' in figures['methods']:
    cut_at = figures['methods']['oracle']['cut_at']
    shares['the oracle'] = cut_at[budgets.keys(figures)[1]]
  much = [
      f'{share:.1%} of the answers of {name}'
      for name, share in shares.items()
      if share is not None and share > cut_answers.MUCH
  ]
  if not much:
    return ''
  return (
      f'The limit decides: the token limit cut off {", ".join(much)}. Such an '
      'answer usually grades wrong. Raise collect.max_tokens and collect again.'
  )
