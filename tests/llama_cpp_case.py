"""The small shipped model as a GGUF file, and engines of llama.cpp for it."""

import asyncio
import pathlib
import tempfile

from absl.testing import parameterized

from routing.engines import llama_cpp
from routing.engines import prompts
from routing.lm import export
from routing.tasks import arithmetic
from tests import gguf_files
from tests import sessions

SMALL = export.shipped('small')
QUESTIONS = [p.question for p in arithmetic.load(1, test=6)['test']]


class LlamaCppCase(parameterized.TestCase):
  """A test that starts llama.cpp's server for real."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    # Of its own: servers map the file into memory, and a worker that wrote it
    # again would end those of another.
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.file = pathlib.Path(folder) / 'small.gguf'
    gguf_files.write(SMALL, cls.file)
    cls.prompter = prompts.Prompter(prompts.load_tokenizer(SMALL))

  def make(self, prompter=None, **settings):
    return llama_cpp.LlamaCppEngine(
        'small',
        0,
        llama_cpp.Settings(
            str(self.file), max_length=256, num_threads=1, **settings
        ),
        prompter or self.prompter,
    )

  def run_on(self, engine, requests):
    async def run():
      try:
        return await sessions.write_all(engine, requests)
      finally:
        await engine.close()

    return asyncio.run(run())
