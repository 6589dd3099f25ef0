"""What can become of a command of the documents; see `page_commands`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Run:
  """Runs the command, made small.

  Attributes:
    changes: (text, its replacement) pairs; each text must be in the command. A
      command of make is first replaced by the program that its target starts.
    more: words that are appended.
    leaves: files, in the copy of the checkout, that must be there afterwards.
    says: regular expression that must match somewhere in what it prints.
    code: exit code of a run that succeeds.
  """

  changes: tuple[tuple[str, str], ...] = ()
  more: tuple[str, ...] = ()
  leaves: tuple[str, ...] = ()
  says: str = ''
  code: int = 0


@dataclasses.dataclass(frozen=True)
class Serve(Run):
  """Starts the command as a server, at a free port in place of 8000.

  It is sent the requests (`Ask`) of its page, and is stopped after these.
  """


@dataclasses.dataclass(frozen=True)
class Ask:
  """Sends a request to each server of the same page.

  Attributes:
    says: regular expression that must match somewhere in the reply.
  """

  says: str


@dataclasses.dataclass(frozen=True)
class Leave:
  """Does not run the command.

  Attributes:
    reason: why it is not run here.
    elsewhere: what runs it, or the same at another size; '' = nothing does.
  """

  reason: str
  elsewhere: str = ''


@dataclasses.dataclass(frozen=True)
class Rule:
  """What becomes of the commands that a regular expression matches in full."""

  pattern: str
  does: Run | Ask | Leave
