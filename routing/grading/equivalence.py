"""Graders: compare the final answer of a text with the reference answer.

A grader is a callable `(text, reference, meta) -> verdicts.Verdict`. `text` is
the whole answer as the user reads it, reasoning included; `meta` holds the
further facts of the problem, which most graders need not know. A text without a
final answer is graded as wrong; it raises no error.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import os
import re
from typing import Any
from typing import Protocol

from routing.grading import answers
from routing.grading import generator
from routing.grading import judge
from routing.grading import plain
from routing.grading import pool as pool_lib
from routing.grading import verdicts

# LaTeX that math-verify would read as other things: money, thousands, and the
# constants e and i in upright letters.
_MONEY = re.compile(r'\\\$\s*(?=[\d.])')
_THOUSANDS = re.compile(r'(?<=\d)\{,\}(?=\d{3})')
_UPRIGHT = re.compile(
    r'([A-Za-z]?)\s*\\(?:mathrm|text|textrm|operatorname)\s*\{\s*([ei])\s*\}'
)


# Characters of an answer and its reference: longer ones are not remembered, and
# much longer ones not compared.
_MAX_CACHED, _MAX_CHARACTERS = 1_000, 50_000

Meta = Mapping[str, Any] | None


class Grader(Protocol):
  """The interface of a grader; it may be called from several threads.

  name: how it grades, as part of the keys under which answers are cached.
  """

  name: str

  def __call__(
      self, text: str, reference: str, meta: Meta = None
  ) -> verdicts.Verdict:
    """Returns whether the final answer equals the reference, and why.

    Args:
      text: the whole answer.
      reference: the reference answer of the problem.
      meta: `Problem.meta`; None = the problem has none.
    """
    ...


class Exact:
  """A grader by the text: only the white space between words may differ.

  Args:
    finders: the answer's convention, see `answers`.
  """

  def __init__(self, finders: Sequence[str] = answers.DEFAULT):
    answers.check(finders)
    self._finders = tuple(finders)
    self.name = f'exact({",".join(finders)})'

  def __call__(
      self, text: str, reference: str, meta: Meta = None
  ) -> verdicts.Verdict:
    del meta  # Text and reference decide.
    answer = answers.find(text, self._finders)
    if answer is None:
      return verdicts.NOT_FOUND
    is_equal = answer.split() == reference.split()
    reason = 'equal' if is_equal else 'differs'
    return verdicts.Verdict(is_equal, answer, 'literal', reason)


exact = Exact()  # With the default convention.


class SameText:
  """A grader by the text, for answers in words or in a made-up notation.

  White space, letter case, and delimiters of LaTeX do not matter.

  Args:
    finders: the answer's convention, see `answers`.
  """

  def __init__(self, finders: Sequence[str] = answers.DEFAULT):
    answers.check(finders)
    self._finders = tuple(finders)
    self.name = f'same_text({",".join(finders)})'

  def __call__(
      self, text: str, reference: str, meta: Meta = None
  ) -> verdicts.Verdict:
    del meta  # Text and reference decide.
    answer = answers.find(text, self._finders)
    if answer is None:
      return verdicts.NOT_FOUND
    is_equal = plain.letters(answer) == plain.letters(reference)
    reason = 'equal' if is_equal else 'differs'
    return verdicts.Verdict(is_equal, answer, 'words', reason)


class MathVerify:
  """A grader by mathematical equality.

  What can be decided without computer algebra is: equal texts, plain numbers,
  words (see `plain`). The rest is compared by `math-verify` in processes with
  limits (see `pool`). An answer that cannot be parsed, or not compared within
  the limits, is graded as wrong; the verdict says why.

  Of several boxes that are one answer (see `answers`), the list must equal the
  reference, or each of them must: `0.5 or 1/2` equals 0.5, and `1 or 2` does
  not equal 1.

  Args:
    finders: the answer's convention, see `answers`.
    workers: number of processes; 0 = as many as there are processors.
    timeout: seconds of the processor for one comparison.
    memory: bytes of memory for one process.
    cache_size: number of comparisons remembered, those of timeouts included.
  """

  def __init__(
      self,
      finders: Sequence[str] = answers.DEFAULT,
      *,
      workers: int = 0,
      timeout: float = 5.0,
      memory: int = 2**30,
      cache_size: int = 2**16,
  ):
    answers.check(finders)
    if workers < 0:
      raise ValueError(f'workers is {workers}; it must be at least 0.')
    if not timeout > 0:
      raise ValueError(f'timeout is {timeout} s; it must be positive.')
    if not memory > 0:
      raise ValueError(f'memory is {memory} bytes; it must be positive.')
    self._finders = tuple(finders)
    self.name = f'math_verify({",".join(finders)})'
    self._pool = pool_lib.Pool(workers or os.cpu_count() or 1, timeout, memory)
    self._compare = functools.lru_cache(cache_size)(self._pool.compare)

  def __call__(
      self, text: str, reference: str, meta: Meta = None
  ) -> verdicts.Verdict:
    del meta  # Text and reference decide.
    found = answers.locate(text, self._finders)
    if found is None or found.answer is None:
      return verdicts.NOT_FOUND
    verdict = self.compare(found.answer, reference)
    if len(found.parts) > 1 and not verdict.is_correct:
      each = [self.compare(part, reference) for part in found.parts]
      if all(x.is_correct for x in each):
        return verdicts.Verdict(True, found.answer, each[-1].method, 'equal')
    return verdict

  def compare(self, answer: str, reference: str) -> verdicts.Verdict:
    """Compares two expressions.

    Args:
      answer: the final answer, without the reasoning before it.
      reference: the reference answer.

    Raises:
      RuntimeError: if the grader is closed, or a process does not start.
    """
    method, is_equal = _compare_plainly(answer, reference)
    reason = 'equal' if is_equal else 'differs'
    size = len(answer) + len(reference)
    if method is None and size > _MAX_CHARACTERS:
      method, reason = 'math_verify', 'too long'
    elif method is None:
      method = 'math_verify'
      compare = self._compare if size <= _MAX_CACHED else self._pool.compare
      is_equal, reason = compare(_as_latex(answer), _as_latex(reference))
    return verdicts.Verdict(is_equal, answer, method, reason)

  def close(self) -> None:
    """Ends the processes; later comparisons raise. May be called again."""
    self._pool.close()


def _compare_plainly(answer: str, reference: str) -> tuple[str | None, bool]:
  """Compares two answers without computer algebra.

  Returns:
    What decided, None = nothing, and whether the answers are equal.
  """
  if answer.split() == reference.split():
    return 'literal', True
  first, second = plain.choice(answer), plain.choice(reference)
  if first is not None and second is not None:
    return 'words', first == second
  if plain.is_words(answer, reference):
    return 'words', plain.letters(answer) == plain.letters(reference)
  first, second = plain.value(answer), plain.value(reference)
  if first is not None and second is not None:
    return 'number', plain.same_value(first, second)
  return None, False


def _as_latex(text: str) -> str:
  text = _THOUSANDS.sub(',', _MONEY.sub('', text))
  # `\pi\mathrm{i}` needs a space, and `4\mathrm{i}` must have none.
  return _UPRIGHT.sub(lambda m: f'{m[1]} {m[2]}' if m[1] else m[2], text)


def by_name(
    name: str,
    finders: Sequence[str] = answers.DEFAULT,
    *,
    ask: Callable[[str], str] | None = None,
) -> Grader:
  """Returns the grader with the given name.

  Args:
    name: 'exact', 'same_text', 'math_verify', 'generator' or 'judge'.
    finders: the answer's convention, see `answers`.
    ask: for the judge: sends a prompt to a model and returns its reply.

  Raises:
    ValueError: if no grader or finder has this name, or a judge has no model.
  """
  if name == 'judge':
    if ask is None:
      raise ValueError("Grader 'judge' needs a model; pass `ask`.")
    return judge.Judge(ask, finders)
  if name == 'generator':
    return generator.Generator(finders, MathVerify(finders))
  graders = {'exact': Exact, 'same_text': SameText, 'math_verify': MathVerify}
  if name not in graders:
    allowed = ', '.join([*graders, 'generator', 'judge'])
    raise ValueError(f'Unknown grader {name!r}; allowed: {allowed}.')
  return graders[name](finders)
