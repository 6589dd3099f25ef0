"""Makes a process on some node work as the one that began: place, cores, cache.

Ray starts its processes in directories of its own, with none of the settings of
the process that asked for them.
"""

import dataclasses
import math
import os
import pathlib
import platform

from absl import logging

from experiments import command_line


@dataclasses.dataclass(frozen=True)
class Origin:
  """The process that began, as far as others need to know it.

  here: its directory, which relative paths of the configuration are relative
    to.
  host: the name of its machine.
  workdir: of the run, absolute; '' = none.
  cores: of each process that is made so.
  """

  here: str
  host: str
  workdir: str
  cores: float

  def enter(self) -> None:
    """Makes this process work as the one that began; before jax computes."""
    # Where the nodes share no file system, all paths must be absolute.
    if os.path.isdir(self.here):
      os.chdir(self.here)
    else:
      logging.warning(
          '%s does not exist on %s; relative paths of the configuration are '
          'not found there.',
          self.here,
          platform.node(),
      )
    # XLA would start a thread for each core of the machine otherwise, and those
    # of all actors would take turns.
    os.environ.setdefault('NPROC', str(max(math.ceil(self.cores), 1)))
    command_line.keep_compiled(self.workdir or None, self._folder())

  def _folder(self) -> str:
    """Returns the folder in the work directory of what is compiled here."""
    # Programs for a CPU use its instructions, and other nodes may lack some.
    is_other = platform.node() != self.host
    folder = pathlib.Path(command_line.COMPILED_FOLDER)
    return str(folder / platform.node()) if is_other else str(folder)


def origin(workdir: str, cores: float) -> Origin:
  """Returns this process as others need to know it; arguments as above."""
  return Origin(os.getcwd(), platform.node(), workdir, cores)
