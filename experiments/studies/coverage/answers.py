"""Reads published answers of two models to the same problems as ladders.

The ladders have one step. The one decision is to keep the small model's answer
or to ask the large model. The score is a regression on the words of the
question and of the small answer. It is fitted on some of the problems, which
are then left out. None of the files has token counts, so the cost of an answer
is the model's price times the characters it wrote; where no text was published,
the price alone.
"""

from collections.abc import Callable
import csv
import dataclasses
import gzip
import io
import json
import os
import pathlib

import numpy as np

from experiments.studies.coverage import data as data_lib
from routing.calibration import thresholds as thresholds_lib

_FIT_SHARE = 0.3  # Share of the problems that the score is fitted on.
_GRID_SIZE = 100  # Thresholds.
_MIXTRAL = 'mistralai/Mixtral-8x7B-Instruct-v0.1'
_GPT4 = 'gpt-4-1106-preview'
# Of Mixtral and GPT-4, dollars per million tokens (RouteLLM, table 1).
_LIST_PRICES = (0.24, 24.7)
_KOR_CATEGORIES = ('cipher', 'counterfactual', 'logic', 'operation', 'puzzle')
# A subject with one of these words belongs to the group 'science' of MMLU.
_MMLU_SCIENCE = (
    'algebra anatomy astronomy biology chemistry clinical computer econometrics'
    ' electrical engineering genetics machine mathematics medicine nutrition '
    'physics statistics virology'
).split()


@dataclasses.dataclass(frozen=True)
class Answers:
  """N problems with the answers of a small model (0) and a large model (1).

  text: N texts, all that the score may look at.
  right: `[N, 2]` bool, whether the answer is correct.
  written: `[N, 2]` > 0, characters; ones where no text was published.
  prices: of one character, for each model, in any common unit.
  labels: N groups, known before anything is spent.
  is_cascade: the small answer is written, hence paid, before the decision.
  """

  text: list[str]
  right: np.ndarray
  written: np.ndarray
  prices: tuple[float, float]
  labels: list[str]
  is_cascade: bool = True


def directory() -> pathlib.Path:
  """Returns the directory of data sets: `ROUTING_DATA`, or `../shared/data`."""
  return pathlib.Path(os.environ.get('ROUTING_DATA', '../shared/data'))


def _rows(path: pathlib.Path) -> list[dict]:
  """Returns the rows of a gzip file of JSON lines, one JSON array, or CSV."""
  with gzip.open(path, 'rt', encoding='utf-8', newline='') as file:
    text = file.read()
  if '.csv' in path.name:
    return list(csv.DictReader(io.StringIO(text)))
  if '.jsonl.dev70.json' in path.name:
    return json.loads(text)
  return [json.loads(line) for line in text.splitlines()]


def _thirds(texts: list[str]) -> list[str]:
  """Returns the group of each text: short, middle or long, by tertiles."""
  lengths = np.array([len(text) for text in texts])
  third = np.digitize(lengths, np.quantile(lengths, [1 / 3, 2 / 3]))
  return [('short', 'middle', 'long')[k] for k in third]


def _abel(small: int, large: int) -> Callable[[pathlib.Path], Answers]:
  """Returns a reader of Abel on GSM8K; prices are the parameters."""

  def read(data: pathlib.Path) -> Answers:
    pair = [
        {
            row['id']: row
            for row in _rows(data / 'gsm8k_abel' / f'{size}b.dev70.jsonl.gz')
        }
        for size in (small, large)
    ]
    ids = sorted(pair[0].keys() & pair[1].keys())
    rows = [[answers[i] for answers in pair] for i in ids]
    return Answers(
        text=[a['prompt'] + a['response'] for a, _ in rows],
        right=np.array([[x['result'] for x in row] for row in rows]),
        written=_lengths([[x['response'] for x in row] for row in rows]),
        prices=(small, large),
        labels=_thirds([a['prompt'] for a, _ in rows]),
    )

  return read


def _lengths(texts: list[list[str]]) -> np.ndarray:
  """Returns `[N, 2]` characters, at least 1: costs are divided by them."""
  return np.array([[max(len(x), 1) for x in row] for row in texts], float)


def _routellm_gsm8k(data: pathlib.Path) -> Answers:
  """Reads RouteLLM's answers to GSM8K.

  Correctness is as published; 32 flags of the large model are known wrong.
  """
  rows = _rows(data / 'routellm' / 'gsm8k_responses.dev70.csv.gz')
  names = (_MIXTRAL, _GPT4)
  replies = [[row[f'{name}_response'] for name in names] for row in rows]
  return Answers(
      text=[
          f'{row["prompt"]} {reply[0]}'
          for row, reply in zip(rows, replies, strict=True)
      ],
      right=np.array([[row[x] == 'True' for x in names] for row in rows]),
      written=_lengths(replies),
      prices=_LIST_PRICES,
      labels=_thirds([row['prompt'] for row in rows]),
  )


def _routellm_mmlu(data: pathlib.Path) -> Answers:
  """Reads RouteLLM's results on MMLU.

  No answers were published, so the decision is based on the question alone.
  """
  text, right, labels = [], [], []
  for path in sorted((data / 'routellm' / 'mmlu').glob('*.csv.gz')):
    subject = path.name.removeprefix('mmlu_').split('.')[0]
    is_science = any(word in subject for word in _MMLU_SCIENCE)
    for row in _rows(path):
      text.append(f'{subject} {row["prompt"]}')
      right.append([row[_MIXTRAL] == 'True', row[_GPT4] == 'True'])
      labels.append('science' if is_science else 'other')
  if not text:
    raise FileNotFoundError(
        f'{data / "routellm" / "mmlu"} holds no *.csv.gz file.'
    )
  return Answers(
      text=text,
      right=np.array(right),
      written=np.ones((len(text), 2)),
      prices=_LIST_PRICES,
      labels=labels,
      is_cascade=False,
  )


def _kor(small: float, large: float) -> Callable[[pathlib.Path], Answers]:
  """Returns a reader of Qwen2.5 on KOR-Bench; prices are the parameters."""

  def read(data: pathlib.Path) -> Answers:
    text, right, replies, labels = [], [], [], []
    for category in _KOR_CATEGORIES:
      graded, asked = [], {}
      for size in (small, large):
        name = f'Qwen2.5-{size:g}B-Instruct_{category}_zero-shot'
        folder = data / 'kor_bench' / 'results'
        found = _rows(folder / f'evaluation_{name}.jsonl.dev70.json.gz')
        graded.append({row['idx']: row for row in found})
        if not asked:
          rows = _rows(folder / f'{name}.dev70.jsonl.gz')
          asked = {row['idx']: row['question'] for row in rows}
      for i in sorted(asked.keys() & graded[0].keys() & graded[1].keys()):
        pair = [str(x[i]['response']) for x in graded]
        text.append(f'{category} {asked[i]} {pair[0]}')
        right.append([x[i]['is_correct'] for x in graded])
        replies.append(pair)
        labels.append(category)
    return Answers(
        text, np.array(right), _lengths(replies), (small, large), labels
    )

  return read


READERS: dict[str, Callable[[pathlib.Path], Answers]] = {
    'Abel 7B, 70B': _abel(7, 70),
    'Abel 13B, 70B': _abel(13, 70),
    'Abel 7B, 13B': _abel(7, 13),
    'RouteLLM GSM8K': _routellm_gsm8k,
    'RouteLLM MMLU': _routellm_mmlu,
    'KOR-Bench 7B, 72B': _kor(7, 72),
    'KOR-Bench 1.5B, 72B': _kor(1.5, 72),
}


def score(answers: Answers, is_fitted: np.ndarray) -> np.ndarray:
  """Returns `[N]` probabilities that only the large model is right.

  Args:
    answers: N problems.
    is_fitted: `[N]` bool, the problems that the regression is fitted on.
  """
  from sklearn import linear_model
  from sklearn.feature_extraction import text as text_lib

  words = text_lib.TfidfVectorizer(min_df=3, sublinear_tf=True)
  seen = [x for x, keep in zip(answers.text, is_fitted, strict=True) if keep]
  model = linear_model.LogisticRegression(C=3.0, max_iter=500)
  only_large = answers.right[:, 1] & ~answers.right[:, 0]
  model.fit(words.fit_transform(seen), only_large[is_fitted])
  chance = model.predict_proba(words.transform(answers.text))[:, 1]
  # Rounded, so that ties and grids are the same on every machine.
  return np.round(chance, 9)


def one_step(name: str, answers: Answers, seed: int = 0) -> data_lib.Case:
  """Returns a case of ladders with one decision.

  Costs are fractions of what the large model alone costs on the same problem.

  Args:
    name: of the case.
    answers: N problems.
    seed: of the choice of problems that the score is fitted on.
  """
  num = len(answers.text)
  is_fitted = np.random.default_rng(seed).random(num) < _FIT_SHARE
  scores = score(answers, is_fitted)[:, None]
  paid = answers.written * answers.prices
  stay = paid[:, 0] / paid[:, 1]
  # In a cascade the small answer is paid also where the large model is asked.
  handover = 1.0 + stay * answers.is_cascade
  small, large = answers.right.T.astype(np.float64)
  outcomes = data_lib.tables(
      correct=np.column_stack([large, small]),
      cost=np.column_stack([handover, stay]),
      loss=np.column_stack([np.zeros(num), large * (1 - small)]),
  )
  # The grid is from the fitted problems, so it is fixed before any sample.
  seen = np.flatnonzero(is_fitted)
  grid = thresholds_lib.grid(
      scores[seen], np.ones((len(seen), 1), bool), _GRID_SIZE
  )
  _, labels = np.unique(answers.labels, return_inverse=True)
  return data_lib.finite(
      name,
      'real',
      scores[~is_fitted],
      outcomes.take(~is_fitted),
      labels[~is_fitted],
      grid,
  )


def load(name: str) -> data_lib.Case:
  """Returns a case of published answers, named in `READERS`.

  Raises:
    FileNotFoundError: if its files are missing.
  """
  return one_step(name, READERS[name](directory()))
