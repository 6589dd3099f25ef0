"""How much of vLLM's own speed is left when it writes under the driver.

Run: python -m benchmarks.collection [--problems=256] [--rounds=3]
Times, in one run on the shipped pair:
- routed answers through the driver, 64 at a time, by a model that runs on past
  the boundary while the policy decides (`routed`) or by a request a step
  (`by_step`), under a policy that hands over about half and one that mostly
  stays (`_staying`);
- vLLM alone, given the prompts and the numbers of tokens of every run of one
  writer, in one plain batch: text and log-probabilities as vLLM gives them if
  nothing else is said (`plain`), without text as the driver asks, which spells
  the tokens itself (`textless`), or text alone (`bare`);
- a loop of one problem and one blocking call a step against vLLM's servers.
Tokens that were written in vain do not count. The last line is a JSON object,
its ratios the medians over the rounds: `ratio_to_plain_batch`,
`ratio_to_textless_batch`, `ratio_to_bare_batch`, `ratio_to_sequential`,
`ratio_to_by_step`, `ratio_to_by_step_staying`, and, of a request a step,
`prefix_cache_hit_rate`. Where the rest goes: `benchmarks.collection_breakdown`.
"""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import itertools
import json
import statistics
import time

from absl import app
from absl import flags
from absl import logging
import ml_collections

from benchmarks import servers
from configs import arithmetic_vllm
from experiments import builders
from routing import types
from routing.engines import back_ends
from routing.engines import engine as engine_lib
from routing.engines import prompts
from routing.rollout import collect
from routing.rollout import driver
from routing.rollout import steps as steps_lib
from routing.routers import fixed

ROUTER = fixed.ConfidenceRouter(threshold=0.5)  # Hands over about half.
_STAYING = fixed.ConfidenceRouter(threshold=1.5)
_WAYS = {'routed': True, 'by_step': False}  # To `speculates`.
CONCURRENCY = 64
_SEQUENTIAL_SHARE = 16  # One call at a time is slow: a sixteenth will do.


async def answer_all(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    engines: Sequence[engine_lib.Engine],
    router: driver.Router,
    concurrency: int = CONCURRENCY,
) -> tuple[list[types.Trajectory], float]:
  """Answers all problems, and says how many seconds it took."""
  places = asyncio.Semaphore(concurrency)

  async def answer(problem: types.Problem) -> types.Trajectory:
    async with places:
      return await driver.answer(
          problem,
          router,
          engines,
          protocol=builders.protocol(config),
          accounting=None,
          grade=builders.grader(config),
          seed=config.seed,
          sampling=builders.sampling(config),
      )

  start = time.perf_counter()
  trajectories = await collect.together(map(answer, problems))
  return trajectories, time.perf_counter() - start


def runs(trajectory: types.Trajectory) -> list[tuple[int, str, int]]:
  """(route, trace, tokens) of every run of one writer in a trajectory.

  The discarded draft belongs to the small model's run, which it would have
  ended had it been kept.
  """
  small = [s for s in trajectory.steps if s.route == 0]
  found = [
      (0, '', steps_lib.count_tokens((*small, *trajectory.discarded))),
      (
          1,
          steps_lib.join(small),
          steps_lib.count_tokens(trajectory.steps[len(small) :]),
      ),
  ]
  return [run for run in found if run[-1]]


class PlainBatches:
  """vLLM alone, a model a route, asked for everything at once.

  Its models are its own, so that no prefix is in a cache.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    import vllm

    self._models, self._prompters = [], []
    self._count = itertools.count()
    for route in builders.routes(config):
      settings = back_ends.settings(route)
      arguments = settings.engine_args(str(route.folder))
      self._models.append(
          vllm.AsyncLLMEngine.from_engine_args(
              vllm.AsyncEngineArgs(**arguments)
          )
      )
      tokenizer = prompts.load_tokenizer(route.folder)
      self._prompters.append(prompts.Prompter(tokenizer))

  async def seconds(
      self, trajectories: Sequence[types.Trajectory], **fields
  ) -> float:
    """Seconds to write the tokens of `runs`; `fields` are of SamplingParams."""
    wanted = [
        (x.problem.question, *run) for x in trajectories for run in runs(x)
    ]
    start = time.perf_counter()
    await collect.together(self.write(*run, **fields) for run in wanted)
    return time.perf_counter() - start

  async def write(
      self,
      question: str,
      route: int,
      trace: str,
      count: int,
      *,
      output_kind: str = 'FINAL_ONLY',
      salt: str = '',
      **fields,
  ) -> None:
    """Writes `count` tokens after a trace, and reads what vLLM sends.

    Args:
      question: the question.
      route: of the model.
      trace: the answer so far.
      count: of the tokens.
      output_kind: name of vLLM's kind of output; by default one, at the end.
      salt: of the cache; requests with the same share it. '' = with none.
      **fields: further ones of SamplingParams.
    """
    import vllm
    from vllm import sampling_params

    name = str(next(self._count))
    params = vllm.SamplingParams(
        temperature=0.0,
        max_tokens=count,
        ignore_eos=True,
        output_kind=sampling_params.RequestOutputKind[output_kind],
        **fields,
    )
    prompt = vllm.TokensPrompt(
        prompt_token_ids=self._prompters[route].ids(question, trace),
        cache_salt=salt or name,
    )
    async for _ in self._models[route].generate(prompt, params, name):
      pass

  def close(self) -> None:
    """Ends the processes."""
    for model in self._models:
      model.shutdown()


def answer_in_turn(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    urls: Sequence[str],
) -> float:
  """Tokens per second of one problem and one blocking call a step.

  The rules are those of the driver; nothing is recorded.

  Args:
    config: the configuration.
    problems: answered one after the other.
    urls: of the servers, one a route.
  """
  import httpx

  total, start = 0, time.perf_counter()
  with httpx.Client(timeout=60) as client:

    def ask(route: int, prompt: str, max_tokens: int, stop: list[str]):
      reply = client.post(
          f'{urls[route]}/v1/completions',
          json=dict(
              model='model',
              prompt=prompt,
              max_tokens=max_tokens,
              temperature=0.0,
              logprobs=5,
              stop=stop,
              include_stop_str_in_output=True,
          ),
      )
      reply.raise_for_status()
      choice = reply.json()['choices'][0]
      return choice, reply.json()['usage']['completion_tokens']

    for problem in problems:
      trace, left = '', config.collect.max_tokens
      for _ in range(config.protocol.max_decisions):
        prompt = problem.question + trace
        choice, count = ask(0, prompt, left, [types.DELIMITER])
        total += count
        uncertainty = -min(choice['logprobs']['token_logprobs'])
        if uncertainty >= ROUTER.threshold:
          total += ask(1, prompt, left, [])[1]
          break
        trace, left = trace + choice['text'], left - count
        if choice['stop_reason'] != types.DELIMITER or left <= 0:
          break
  return total / (time.perf_counter() - start)


def count_tokens(trajectories: Sequence[types.Trajectory]) -> int:
  """Tokens that are in a step, kept or discarded."""
  return sum(
      steps_lib.count_tokens((*x.steps, *x.discarded)) for x in trajectories
  )


def hit_rate(trajectories: Sequence[types.Trajectory]) -> float:
  """Share of the tokens in prompts that were in a cache."""
  calls = [call for x in trajectories for call in x.calls]
  cached = sum(call.cached for call in calls)
  return cached / (cached + sum(call.read for call in calls))


def make_engines(
    config: ml_collections.ConfigDict, speculates: bool, **settings
) -> list[engine_lib.Engine]:
  """A pair of its own, so that the ways share no cache."""
  config = config.copy_and_resolve_references()
  for route in config.routes:
    route['settings'].update(speculates=speculates, **settings)
  return builders.engines(config)


async def measure_routed(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    pairs: Mapping[str, Sequence[engine_lib.Engine]],
) -> tuple[dict[str, float], dict[str, list[types.Trajectory]]]:
  """Tokens per second, and the trajectories, of each way and policy."""
  row, found = {}, {}
  for policy, router in (('', ROUTER), ('_staying', _STAYING)):
    for way, engines in pairs.items():
      name = way + policy
      found[name], seconds = await answer_all(config, problems, engines, router)
      row[name] = count_tokens(found[name]) / seconds
    ours = found['routed' + policy]
    written = sum(call.written for x in ours for call in x.calls)
    row['wasted' + policy] = written - count_tokens(ours)
    row['handed_over' + policy] = sum(len(runs(x)) - 1 for x in ours)
    # Whichever way it is written, it is the same answer.
    row['differing' + policy] = sum(
        a.text != b.text
        for a, b in zip(ours, found['by_step' + policy], strict=True)
    )
  return row, found


async def measure_rounds(
    config: ml_collections.ConfigDict,
    problems: Sequence[types.Problem],
    urls: Sequence[str],
    num_rounds: int,
) -> list[dict[str, float]]:
  """The figures of each round, everything measured one after the other."""
  few = problems[: max(len(problems) // _SEQUENTIAL_SHARE, 1)]
  pairs = {way: make_engines(config, on) for way, on in _WAYS.items()}
  plain = PlainBatches(config)
  asked_too = dict(seed=0, logprobs=5, flat_logprobs=True)
  rounds = []
  try:
    for index in range(num_rounds + 1):
      row, found = await measure_routed(config, problems, pairs)
      routed = found['routed']
      written = count_tokens(routed)
      row |= {
          'plain': written / await plain.seconds(routed, **asked_too),
          'textless': written
          / await plain.seconds(routed, **asked_too, detokenize=False),
          'bare': written / await plain.seconds(routed),
          'in_turn': await asyncio.to_thread(answer_in_turn, config, few, urls),
          'hit_rate': hit_rate(found['by_step']),
      }
      if index:  # The first warms everything up.
        rounds.append(row)
        print(
            ', '.join(f'{name} {value:.5g}' for name, value in row.items()),
            flush=True,
        )
  finally:
    plain.close()
    for engine in itertools.chain(*pairs.values()):
      await engine.close()
  return rounds


def measure(num_problems: int, num_rounds: int) -> dict[str, float]:
  """The figures of the last line: medians over the rounds."""
  config = arithmetic_vllm.get_config()
  builders.set_environment(config)
  problems = builders.problems(config, 'train')[:num_problems]
  with contextlib.ExitStack() as stack:
    urls = [
        stack.enter_context(
            servers.serve('model', route.folder, back_ends.settings(route))
        )
        for route in builders.routes(config)
    ]
    for url in urls:
      servers.wait_for(url)
    rounds = asyncio.run(measure_rounds(config, problems, urls, num_rounds))
  ratios = {
      name: statistics.median(row[ours] / row[other] for row in rounds)
      for name, ours, other in (
          ('ratio_to_plain_batch', 'routed', 'plain'),
          ('ratio_to_textless_batch', 'routed', 'textless'),
          ('ratio_to_bare_batch', 'routed', 'bare'),
          ('ratio_to_sequential', 'routed', 'in_turn'),
          ('ratio_to_by_step', 'routed', 'by_step'),
          ('ratio_to_by_step_staying', 'routed_staying', 'by_step_staying'),
      )
  }
  return {
      'problems': len(problems),
      'rounds': num_rounds,
      'handed_over': rounds[0]['handed_over'],
      **{name: round(ratio, 3) for name, ratio in ratios.items()},
      'prefix_cache_hit_rate': round(rounds[0]['hit_rate'], 3),
  }


def main(argv: Sequence[str]) -> None:
  """Prints a line a round, tokens per second, then the JSON line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)  # Or every call would be a line.
  print(json.dumps(measure(flags.FLAGS.problems, flags.FLAGS.rounds)))


if __name__ == '__main__':
  flags.DEFINE_integer('problems', 256, 'Answers per round.')
  flags.DEFINE_integer('rounds', 3, 'Rounds, after one that is not counted.')
  app.run(main)
