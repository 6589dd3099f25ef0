"""Tokens that a session reads anew: by hand, and as engines count them."""

import asyncio
import dataclasses
import re
from unittest import mock
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing import types
from routing.engines import memoized
from routing.engines import prefix_cache
from routing.engines import scripted
from routing.grading import equivalence
from routing.rollout import all_replies
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import step_requests
from routing.rollout import trees
from routing.routers import behaviour
from tests import scripted_pair


def _step(text, ids):
  return types.Step(
      text=text,
      token_ids=tuple(ids),
      log_probs=np.full(len(ids), -0.1, np.float32),
      top_log_probs=np.zeros((len(ids), 0), np.float32),
      is_final=False,
      usage=types.Usage(0, 0, 0, len(ids)),
  )


def _paid(steps):
  return [(int(s.usage.read), int(s.usage.cached)) for s in steps]


class ChargedTest(parameterized.TestCase):

  @parameterized.parameters(
      # The prompt has 7 tokens. The session read 4 and wrote 2. The prompt
      # begins with all of these, or with all but the last.
      (1, (1, 2, 3, 4, 5, 6, 9), (1, 6)),
      (1, (1, 2, 3, 4, 5, 8, 9), (2, 5)),
      (1, (7, 2, 3, 4, 5, 6, 9), (7, 0)),
      # With blocks of 4, 6 tokens fill one block.
      (4, (1, 2, 3, 4, 5, 6, 9), (3, 4)),
      (4, (1, 2, 3, 8, 5, 6, 9), (7, 0)),
      # With blocks of 16, 6 tokens fill none.
      (16, (1, 2, 3, 4, 5, 6, 9), (7, 0)),
      # The last token is read anew even if it ends a cached block.
      (3, (1, 2, 3, 4, 5, 6), (3, 3)),
  )
  def test_by_hand(self, block, ids, wanted):
    cache = prefix_cache.PrefixCache(block=block)
    first = prefix_cache.prompt('q', '', 4, (1, 2, 3, 4))
    written, held = prefix_cache.charged(
        [_step('one', (5, 6))], first, (), cache
    )
    self.assertEqual(_paid(written), [(4, 0)])
    second = prefix_cache.prompt('q', 'one', len(ids), ids)
    written, _ = prefix_cache.charged([_step('two', (1,))], second, held, cache)
    self.assertEqual(_paid(written), [wanted])

  def test_one_call_reads_its_prompt_once(self):
    first = prefix_cache.prompt('q', '', 4, (1, 2, 3, 4))
    written, _ = prefix_cache.charged(
        [_step('one', (5, 6)), _step('two', (7,))],
        first,
        (),
        prefix_cache.PrefixCache(),
    )
    self.assertEqual(_paid(written), [(4, 0), (0, 0)])
    self.assertEqual([s.usage.in_context for s in written], [0, 6])

  @parameterized.parameters((False, (3, 0)), (True, (1, 2)))
  def test_which_sequences_a_session_keeps(self, keeps_all, wanted):
    # Another sequence was read in between.
    cache, held = prefix_cache.PrefixCache(keeps_all=keeps_all), ()
    for ids in ((1, 2), (8, 9)):
      text = prefix_cache.prompt(str(ids), '', 2, ids)
      _, held = prefix_cache.charged([_step('', ())], text, held, cache)
    text = prefix_cache.prompt('(1, 2)', 'x', 3, (1, 2, 3))
    written, _ = prefix_cache.charged([_step('', (4,))], text, held, cache)
    self.assertEqual(_paid(written), [wanted])

  @parameterized.parameters(('one', (2, 6)), ('on', (8, 0)), ('two', (8, 0)))
  def test_without_ids_whole_sequences_count(self, trace, wanted):
    first = prefix_cache.prompt('q', '', 4, None)
    _, held = prefix_cache.charged(
        [_step('one', (0, 0))], first, (), prefix_cache.PrefixCache()
    )
    second = prefix_cache.prompt('q', trace, 8, None)
    written, _ = prefix_cache.charged(
        [_step('more', (0,))], second, held, prefix_cache.PrefixCache()
    )
    self.assertEqual(_paid(written), [wanted])

  def test_cached_tokens_may_be_fewer_as_one_text(self):
    # 4 tokens were read and 3 written one by one. Tokenized as one text they
    # are 5, so at most 5 can come from a cache.
    cache = prefix_cache.PrefixCache()
    first = prefix_cache.prompt('q', '', 4, None)
    _, held = prefix_cache.charged([_step('one', (0, 0, 0))], first, (), cache)
    second = prefix_cache.prompt('q', 'one', 5, None)
    written, _ = prefix_cache.charged(
        [_step('more', (0,))], second, held, cache
    )
    self.assertEqual(_paid(written), [(0, 5)])


class SharedTest(parameterized.TestCase):
  """The tokens that begin every prompt are cached from the start."""

  @parameterized.parameters(
      (1, 3, 3),  # Three of eight tokens are shared.
      (1, 9, 8),  # Never more than the prompt has.
      (2, 5, 4),  # Whole blocks only.
      (4, 8, 4),  # At least one token is read.
      (4, 3, 0),
  )
  def test_found(self, block, shared, wanted):
    cache = prefix_cache.PrefixCache(block=block, shared=shared)
    self.assertEqual(cache.found(0, 8), wanted)

  def test_more_of_the_sessions_own_text_counts(self):
    cache = prefix_cache.PrefixCache(shared=3)
    self.assertEqual(cache.found(5, 8), 5)

  def test_a_ledger_knows_its_own_session_only(self):
    cache = prefix_cache.PrefixCache(keeps_all=True, shared=2)
    # What the back end reported does not count.
    step = dataclasses.replace(_step('a', (7,)), usage=types.Usage(0, 0, 5, 1))
    first, second = prefix_cache.Ledger(cache), prefix_cache.Ledger(cache)
    for ledger in (first, second):
      self.assertEqual(_paid(ledger.charge([step], (1, 2, 3, 4))), [(2, 2)])
    # Prompt and step, five tokens, are in the cache of the session.
    self.assertEqual(_paid(first.charge([step], (1, 2, 3, 4, 7, 8))), [(1, 5)])

  def test_a_hand_over_reads_what_is_not_shared(self):
    small, large = scripted_pair.make_engines(2)
    cache = prefix_cache.PrefixCache(shared=2)
    able = dataclasses.replace(large.capabilities, prefix_cache=cache)
    with mock.patch.object(
        type(large), 'capabilities', property(lambda engine: able)
    ):
      ladder = asyncio.run(
          collect.collect_ladder(
              scripted_pair.make_problems(1)[0],
              [small, large],
              collect.Plan(step_requests.Sampling()),
              equivalence.exact,
          )
      )
    problem = ladder.problem
    for completion in ladder.completions:
      prefix = ''.join(s.text for s in ladder.steps[: completion.step])
      count = large.count_tokens(problem.question, prefix)
      self.assertEqual(completion.cached, 2)
      self.assertEqual(completion.read, count - 2)


# The tokens of the small model are pairs of characters, of the large one words.
_TOKENS = ('..?', r'\S+|\s')
_SAMPLING = step_requests.Sampling(max_decisions=8, max_tokens=1_000)


@dataclasses.dataclass
class _Tokenized(scripted.ScriptedEngine):
  """An engine with its own tokenizer that simulates its prefix cache."""

  cache: prefix_cache.PrefixCache = prefix_cache.PrefixCache()
  reports_ids: bool = True
  read: dict = dataclasses.field(default_factory=dict)

  @property
  def capabilities(self):
    return dataclasses.replace(super().capabilities, prefix_cache=self.cache)

  def ids(self, text):
    tokens = re.findall(_TOKENS[self.route], text, re.DOTALL)
    return [zlib.crc32(x.encode()) for x in tokens]

  def encode(self, question, trace):
    return self.ids(question + trace) if self.reports_ids else None

  async def reply(self, session, request):
    prompt, cached = self.ids(request.question + request.trace), 0
    for known in self.read.get(request.session, []):
      same = 0
      while same < min(len(known), len(prompt)) and known[same] == prompt[same]:
        same += 1
      cached = max(cached, same)
    if self.cache.block > 1:  # The last token is always read anew.
      cached = min(cached, len(prompt) - 1)
      cached -= cached % self.cache.block
    steps, now = [], list(prompt)
    for step in await super().reply(session, request):
      ids = self.ids(step.text)
      usage = types.Usage(
          self.route,
          read=0 if steps else len(prompt) - cached,
          cached=0 if steps else cached,
          written=len(ids),
          seconds=1.0,
          in_context=len(now) if steps else 0,
      )
      evidence = np.full(len(ids), -0.5, np.float32)
      steps.append(
          dataclasses.replace(
              step,
              token_ids=tuple(ids),
              log_probs=evidence,
              top_log_probs=evidence[:, None],
              usage=usage,
          )
      )
      now += ids
    before = self.read.get(request.session, []) if self.cache.keeps_all else []
    self.read[request.session] = [*before, now]
    return tuple(steps)


def _engines(**fields):
  return [
      _Tokenized(x.name, x.route, x.script, **fields)
      for x in scripted_pair.make_engines(2)
  ]


def _problems():
  """Returns problems of 1 to 5 steps and more than a block of tokens."""
  return [
      dataclasses.replace(x, question=' ' * 40 + x.question)
      for x in scripted_pair.make_problems(5)
  ]


def _answers(name, engines):
  """Answers each problem five times at random; grouped by problem."""
  draw = behaviour.random_rate(2, seed=1)

  async def run():
    return [
        [
            await driver.answer(
                problem,
                draw(problem, index),
                engines,
                protocol=protocols.Protocol(name),
                accounting=costs.Accounting(scripted_pair.SPECS[:2]),
                grade=equivalence.exact,
                seed=0,
                sampling=_SAMPLING,
                sample=index,
            )
            for index in range(5)
        ]
        for problem in _problems()
    ]

  return asyncio.run(run())


def _grown(name, engines):
  got = {}
  asyncio.run(
      all_replies.collect_replies(
          _problems(),
          engines,
          got.__setitem__,
          sampling=_SAMPLING,
          concurrency=2,
      )
  )
  grower = trees.TreeBuilder(
      protocols.Protocol(name), _SAMPLING, equivalence.exact
  )
  return [grower.build(got[i]) for i in range(len(got))]


def _leaf(tree, trajectory):
  place = tree.root
  for decision in trajectory.decisions:
    place = place.branches[decision.route]
  return place


class OtherTokenizersTest(parameterized.TestCase):

  @parameterized.product(
      name=('switch', 'redraft'), block=(1, 16), keeps_all=(False, True)
  )
  def test_replayed_usage_is_that_of_the_engine(self, name, block, keeps_all):
    cache = prefix_cache.PrefixCache(block, keeps_all)
    alone = _answers(name, _engines(cache=cache))
    grown = _grown(name, _engines(cache=cache))
    wrapped = [
        memoized.MemoizedEngine(x, memoized.Memory())
        for x in _engines(cache=cache)
    ]
    recalled = _answers(name, wrapped)
    cached = set()
    for n, tree in enumerate(grown):
      for k, trajectory in enumerate(alone[n]):
        leaf = _leaf(tree, trajectory)
        self.assertEqual(leaf.calls, trajectory.calls)
        self.assertEqual(leaf.is_correct, trajectory.is_correct)
        self.assertEqual(recalled[n][k].calls, trajectory.calls)
        cached |= {(x.route, x.cached) for x in trajectory.calls if x.cached}
    self.assertEqual({route for route, _ in cached}, {0, 1})
    self.assertEqual({count % block for _, count in cached}, {0})

  @parameterized.parameters('switch', 'redraft')
  def test_without_ids_prompts_have_the_same_length(self, name):
    alone = _answers(name, _engines())
    grown = _grown(name, _engines(reports_ids=False))
    cached = 0
    for tree, trajectories in zip(grown, alone, strict=True):
      for trajectory in trajectories:
        calls = _leaf(tree, trajectory).calls
        for a, b in zip(calls, trajectory.calls, strict=True):
          self.assertEqual(a.read + a.cached, b.read + b.cached)
          self.assertEqual(a.written, b.written)
          self.assertGreaterEqual(a.read, 0)
          cached += a.cached
    self.assertGreater(cached, 0)


if __name__ == '__main__':
  absltest.main()
