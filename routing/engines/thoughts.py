"""Guards thoughts in half-written answers that a server puts in a template.

Chat templates of models that think drop the thoughts of earlier messages, cut a
message at `</think>`, or put an empty thought before it. The model would then
continue another text than the trace.
"""

from routing.engines import engine as engine_lib
from routing.engines import prompts


def check_shown(
    prompter: prompts.Prompter | None, question: str, trace: str, name: str
) -> None:
  """Checks that a server's chat template shows the thoughts of a trace.

  Args:
    prompter: of the server's model; None = its template is not known.
    question: the problem's text.
    trace: the answer so far; may be empty.
    name: of the engine, for the message.

  Raises:
    engine_lib.Refused: if the template changes the thoughts, or is not known.
  """
  if not trace:
    return
  if prompter is None:
    if 'think>' in trace:
      raise engine_lib.Refused(
          f'The answer so far has a thought, and the chat template of {name} '
          "is not known, so it may drop it; give the route's weights, or use "
          "mode 'completions'."
      )
  elif prompter.prompt.is_chat and not prompter.keeps_thought(question, trace):
    raise engine_lib.Refused(
        f'The chat template of {name} drops or changes the thought in the '
        "answer so far; use mode 'completions', in which the answer follows "
        'the template unchanged.'
    )
