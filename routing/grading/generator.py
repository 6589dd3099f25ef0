"""A grader that asks the generator of a problem whether an answer is right.

Many puzzles have several right answers, and their generator has a function that
scores any. It runs in processes with limits, see `pool`.

Source: Stojanovski et al. 2025, arXiv 2505.24760.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import json
import os
from typing import Any

from routing.grading import answers
from routing.grading import pool as pool_lib
from routing.grading import verdicts

# In a problem's `meta`: generator, settings and entry, see `generator_worker`.
META = 'generator_entry'


class Generator:
  """A grader by the generator's own score: 1 is right, anything less is wrong.

  Some generators give part of the score to an answer that is nearly right; such
  an answer is wrong here. A problem whose generator has no score of its own is
  graded by rules.

  Args:
    finders: the answer's convention, see `answers`.
    rules: the grader of problems without `META` in their `meta`, e.g. an
      `equivalence.MathVerify`; it is closed with this one.
    workers: number of processes; 0 = as many as there are processors.
    timeout: seconds of the processor for one answer.
    memory: bytes of memory for one process.
    cache_size: number of verdicts remembered.
  """

  def __init__(
      self,
      finders: Sequence[str],
      rules: Any,
      *,
      workers: int = 0,
      timeout: float = 5.0,
      memory: int = 2**30,
      cache_size: int = 2**16,
  ):
    answers.check(finders)
    self._finders, self._rules = tuple(finders), rules
    self.name = f'generator({",".join(finders)})'
    self._pool = pool_lib.Pool(
        workers or os.cpu_count() or 1, timeout, memory, pool_lib.GENERATOR
    )
    self._compare = functools.lru_cache(cache_size)(self._pool.compare)

  def __call__(
      self,
      text: str,
      reference: str,
      meta: Mapping[str, Any] | None = None,
  ) -> verdicts.Verdict:
    """Returns the generator's verdict on the final answer.

    Raises:
      RuntimeError: if the grader is closed, or a process does not start.
    """
    entry = (meta or {}).get(META)
    if entry is None:
      return self._rules(text, reference)
    answer = answers.find(text, self._finders)
    if answer is None:
      return verdicts.NOT_FOUND
    is_right, reason = self._compare(answer, json.dumps(entry, sort_keys=True))
    return verdicts.Verdict(is_right, answer, 'generator', reason)

  def close(self) -> None:
    """Ends the processes; later questions raise. May be called again."""
    self._pool.close()
    self._rules.close()
