"""Lists the back ends, and makes the engine of a route."""

from collections.abc import Callable
import dataclasses
from typing import Any

from routing.engines import embedded_pair
from routing.engines import endpoint as endpoint_lib
from routing.engines import engine as engine_lib
from routing.engines import llama_cpp
from routing.engines import openai
from routing.engines import prompts
from routing.engines import route as route_lib
from routing.engines import vllm
from routing.tasks import delimiter as delimiter_lib
from routing.tasks import prompt as prompt_lib


@dataclasses.dataclass(frozen=True)
class BackEnd:
  """One kind of engine.

  settings: dataclass of the settings that a route gives.
  make: makes the engine of (route, index of the route, its settings).
  without_effect: settings that change no answer, e.g. a server's address; what
    was collected under other values of them remains valid.
  truncates: it knows all fields of `Route.sampling`, not only the temperature.
  """

  settings: type
  make: Callable[[route_lib.Route, int, Any], engine_lib.Engine]
  without_effect: frozenset[str]
  truncates: bool = False


def make(
    route: route_lib.Route, index: int, api_key: str = 'none'
) -> engine_lib.Engine:
  """Returns the engine of a route; the caller closes it.

  Args:
    route: the route.
    index: the route's index, 0 for the smallest model.
    api_key: the key that `route.api_key_variable` holds.

  Raises:
    ValueError: if the back end or a setting is unknown, or a value is not
      allowed.
  """
  given = settings(route)
  if route.truncation and not BACK_ENDS[route.engine].truncates:
    raise ValueError(
        f'Route {route.name!r} has the sampling fields '
        f'{", ".join(route.truncation)}; engine {route.engine!r} has only '
        "'temperature'."
    )
  if route.is_served:
    given = dataclasses.replace(given, api_key=api_key)
  return BACK_ENDS[route.engine].make(route, index, given)


def settings(route: route_lib.Route) -> Any:
  """Returns a route's settings as the dataclass of its back end.

  Raises:
    ValueError: if the back end or a setting is unknown, or a value is not
      allowed.
  """
  if route.engine not in BACK_ENDS:
    raise ValueError(
        f'Route {route.name!r} has engine {route.engine!r}; allowed: '
        f'{", ".join(BACK_ENDS)}.'
    )
  kind = BACK_ENDS[route.engine].settings
  # These two are not settings: a configuration is saved, and a key must not be.
  fixed = {'model': route.model} if route.is_served else {}
  allowed = [
      field.name
      for field in dataclasses.fields(kind)
      if field.name not in ('model', 'api_key')
  ]
  unknown = [name for name in route.settings if name not in allowed]
  if unknown:
    raise ValueError(
        f'Route {route.name!r} has the setting {unknown[0]!r}; allowed for '
        f'engine {route.engine!r}: {", ".join(allowed)}.'
    )
  try:
    return kind(**route.settings, **fixed)
  except (TypeError, ValueError) as error:  # A setting is missing or wrong.
    raise ValueError(f'Route {route.name!r}: {error}') from error


def check_delimiter(
    route: route_lib.Route, delimiter: delimiter_lib.Delimiter
) -> None:
  """Raises ValueError if the models of a route cannot end steps in this way."""
  if route.engine == 'embedded' and delimiter != delimiter_lib.BLANK_LINE:
    raise ValueError(
        f"Route {route.name!r} has engine 'embedded', whose models were "
        'trained to end steps with a blank line; task.delimiter allows nothing '
        'else then.'
    )
  given = settings(route)
  if not delimiter.is_text and getattr(given, 'mode', '') == 'instruct':
    raise ValueError(
        f"Route {route.name!r} has mode 'instruct', in which the model is told "
        f'how to end a step; task.delimiter is {delimiter}; allowed: a text.'
    )
  is_silent = route.engine == 'openai' and not given.is_vllm
  if delimiter.max_tokens and is_silent and not given.num_log_probs:
    raise ValueError(
        f'Route {route.name!r} has num_log_probs 0, so its server does not say '
        'which tokens it writes; task.delimiter.max_tokens needs at least 1.'
    )


def answer_key(route: route_lib.Route) -> dict[str, Any]:
  """Returns all that the answers of a route depend on; JSON-like."""
  given = settings(route)
  without_effect = BACK_ENDS[route.engine].without_effect
  return route.answer_key(
      {
          name: value
          for name, value in dataclasses.asdict(given).items()
          if name not in without_effect
      }
  )


def _prompter(
    route: route_lib.Route, continues: bool = False
) -> prompts.Prompter:
  """Returns the prompter of a route's model, with the model's tokenizer.

  Args:
    route: the route.
    continues: see `prompts.Prompter.check_template`.

  Raises:
    ValueError: if the chat template does not show the whole conversation.
  """
  prompter = prompts.Prompter(
      prompts.load_tokenizer(route.folder),
      route.prompt or prompt_lib.Prompt(),
      route.template,
  )
  try:
    prompter.check_template(continues=continues)
  except ValueError as error:
    raise ValueError(f'Route {route.name!r}: {error}') from error
  return prompter


def _embedded(
    route: route_lib.Route, index: int, given: embedded_pair.Settings
) -> engine_lib.Engine:
  """Makes the engine of an embedded model, which runs in this process."""
  if route.prompt and route.prompt.is_chat:
    raise ValueError(
        f'Route {route.name!r}: embedded models have no chat template; set '
        'prompt.is_chat to False.'
    )
  return embedded_pair.load(route.name, index, route.folder, given)


def _vllm(
    route: route_lib.Route, index: int, given: vllm.Settings
) -> engine_lib.Engine:
  """Makes the engine of a model that vLLM runs on this machine."""
  return vllm.VllmEngine(
      route.name,
      index,
      route.folder,
      given,
      _prompter(route),
      sampling=route.truncation,
  )


def _llama_cpp(
    route: route_lib.Route, index: int, given: llama_cpp.Settings
) -> engine_lib.Engine:
  """Makes the engine of a GGUF file that llama.cpp runs."""
  if not route.folder:
    raise ValueError(
        f'Route {route.name!r} has no weights, but llama.cpp needs them; name '
        'the directory or the hub name of the model that the GGUF file was '
        'made of. Its tokenizer and chat template are used.'
    )
  if route.runs_file:
    path = route_lib.find_file(route.model, route.revision)
    given = dataclasses.replace(given, model=str(path))
  return llama_cpp.LlamaCppEngine(route.name, index, given, _prompter(route))


def _openai(
    route: route_lib.Route, index: int, given: endpoint_lib.Endpoint
) -> engine_lib.Engine:
  """Makes the engine of a model on a server with OpenAI's API."""
  # In the modes 'chat' and 'prefill' the server fills the template.
  continues = given.mode in ('chat', 'prefill') and not given.trims_end
  return openai.OpenAIEngine(
      route.name,
      index,
      given,
      prompter=_prompter(route, continues) if route.folder else None,
      prompt=route.prompt,
      sampling=route.truncation,
  )


# To add a back end, add an entry.
BACK_ENDS = {
    'embedded': BackEnd(
        embedded_pair.Settings,
        _embedded,
        frozenset(('max_batch', 'num_slots')),
    ),
    'vllm': BackEnd(
        vllm.Settings,
        _vllm,
        frozenset(('memory_share', 'cache_bytes', 'num_slots')),
        truncates=True,
    ),
    'llama_cpp': BackEnd(
        llama_cpp.Settings,
        _llama_cpp,
        frozenset(
            (
                *('model', 'base_url', 'api_key', 'timeout'),
                *('num_slots', 'num_aside_slots'),
                *('num_threads', 'num_gpu_layers'),
            )
        ),
    ),
    'openai': BackEnd(
        endpoint_lib.Endpoint,
        _openai,
        frozenset(('base_url', 'api_key', 'timeout', 'streams')),
        truncates=True,
    ),
}
