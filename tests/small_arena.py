"""A comparison in seconds: the scripted pair, its ladders, and live engines."""

import asyncio
import dataclasses
import functools
import zlib

import numpy as np

from routing import costs
from routing.engines import step_scorer
from routing.evaluation import arena as arena_lib
from routing.evaluation import samples
from routing.features import observation
from routing.features import standardize
from routing.grading import equivalence
from routing.outcomes import live_answers
from routing.rollout import collect
from routing.rollout import step_requests
from routing.routers import card as card_lib
from routing.routers import informants
from routing.routers import learned
from routing.routers import router
from routing.tasks import prompt
from routing.tasks import seen as seen_lib
from tests import scripted_pair

SIZES = dict(train=40, select=24, test=16)
NUM_ROUTES = 2
FEATURES = observation.FeatureConfig(
    groups=('confidence', 'progress', 'cost', 'text'),
    num_routes=NUM_ROUTES,
    max_decisions=8,
    question_width=8,
    step_width=8,
)
# The models beyond the pair only inform: they have prices and write nothing.
INFORMING = {
    need: costs.RouteSpec(name, 100, 1, 4, 0.1, 0.01, 0.1)
    for need, name in (
        ('embedding', 'informer'),
        ('step_score', 'scorer'),
        ('judge', 'judge'),
    )
}
ACCOUNTING = costs.Accounting(
    scripted_pair.SPECS[:NUM_ROUTES] + tuple(INFORMING.values()),
    'price',
    reference=1e-3,
)
SAMPLING = step_requests.Sampling()


def log_probs(text: str) -> np.ndarray:
  """Returns log-probabilities that differ from step to step."""
  keys = [f'{text}{i}'.encode() for i in range(len(text))]
  drawn = [zlib.crc32(x) % 1_000 / 500 for x in keys]
  return -np.array(drawn, np.float32)


class HashedScores:
  """A step scorer without a model: it reads a token for each character.

  name: scores are hashes of it and of the text.
  calls: number of answers in each batch so far.
  """

  def __init__(self, name='scorer'):
    self.name, self.calls = name, []

  def score(self, answers):
    """See `step_scorer.StepScorer.score`."""
    self.calls.append(len(answers))
    found = []
    for question, steps in answers:
      texts = [''.join(steps[: t + 1]) for t in range(len(steps))]
      scores = [
          zlib.crc32(f'{self.name}{question}{x}'.encode()) % 100 / 100
          for x in texts
      ]
      read = np.array([len(x) for x in steps])
      read[0] += len(question)
      found.append(step_scorer.StepScores(np.array(scores), read, read * 0.001))
    return found


# Its routes are those of its specs in `ACCOUNTING`.
SCORER = informants.Scorer('hashes', HashedScores(), NUM_ROUTES + 1)
JUDGE = informants.Scorer('judge', HashedScores('judge'), NUM_ROUTES + 2)


def _in_words(script):
  """Returns a script that also replies to what is no question of the task."""

  def reply(request):
    if not isinstance(request.question, prompt.Plain):
      return script(request)
    key = f'{request.question}{request.seed}'.encode()
    drawn = zlib.crc32(key)
    if 'digit' in request.question:
      return str(drawn % 10)
    return 'Y' if drawn % 3 else 'N'

  return reply


def make_engines():
  """Returns the engines of the pair."""
  engines = scripted_pair.make_engines(NUM_ROUTES, log_probs=log_probs)
  for engine in engines:
    engine.script = _in_words(engine.script)
  return engines


@functools.cache
def ladders(split):
  """Returns the ladders of a split."""
  found = {}
  problems = scripted_pair.make_problems(sum(SIZES.values()))
  names = list(SIZES)
  start = sum(SIZES[x] for x in names[: names.index(split)])
  asyncio.run(
      collect.collect_ladders(
          problems[start : start + SIZES[split]],
          make_engines(),
          found.__setitem__,
          plan=collect.Plan(SAMPLING),
          grade=equivalence.exact,
          concurrency=8,
      )
  )
  return [found[i] for i in range(SIZES[split])]


@functools.cache
def sample(split, protocol, embed=None):
  """Returns a split as methods meet it."""
  found = samples.of_ladders(
      ladders(split), FEATURES, ACCOUNTING, protocol, embed
  )
  return dataclasses.replace(
      found,
      scorer=SCORER,
      judge=JUDGE,
      follows_words=True,
      gives_tokens=True,
  )


def untrained(seed, setting=None, *, seen=seen_lib.UNKNOWN, **changes):
  """Returns a learned router with random weights; `changes` are of its card."""
  del setting
  fields = dict(kind='mlp', hidden=(5,), dropout=0.0)
  size = FEATURES.size
  rng = np.random.default_rng(seed)
  # The layers of `networks.make_network`, for one policy.
  shapes = dict(Dense_0=(size, 5), Dense_1=(5, NUM_ROUTES))
  params = {
      layer: dict(
          kernel=rng.normal(size=(1, *shape)).astype(np.float32),
          bias=np.zeros((1, shape[-1]), np.float32),
      )
      for layer, shape in shapes.items()
  }
  given = dict(
      specs=scripted_pair.SPECS[:NUM_ROUTES],
      metric=ACCOUNTING.metric,
      reference=ACCOUNTING.reference,
      protocol=router.PEEK,
      features=FEATURES,
      network=fields,
      form='budget',
      levels=(0.5,),
  )
  card = card_lib.Card(**given | changes)
  statistics = standardize.Statistics(
      np.zeros(size, np.float32), np.ones(size, np.float32)
  )
  return learned.LearnedRouter(card, params, statistics, seen=seen)


def answering(seed=0, engines=make_engines):
  """Returns how the pair answers live."""
  return live_answers.Answering(
      make_engines=engines,
      protocol=router.PEEK,
      accounting=ACCOUNTING,
      sampling=SAMPLING,
      grade=equivalence.exact,
      seed=seed,
      concurrency=4,
  )


def make(embed=None, **changes):
  """Returns the arena."""
  given = dict(
      samples=lambda split, protocol: sample(split, protocol, embed),
      alone={
          split: samples.alone(sample(split, router.COMMIT), ladders(split))
          for split in ('select', 'test')
      },
      accounting=ACCOUNTING,
      informing=INFORMING,
      answering=answering,
      num_live=SIZES,
      traces=lambda protocol: samples.recorded_traces(
          ladders('test')[:4], ACCOUNTING, protocol, FEATURES.max_decisions
      ),
      num_timed=4,
      grid_size=8,
  )
  return arena_lib.Arena(**given | changes)
