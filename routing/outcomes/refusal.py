"""The error of what the data at hand cannot answer."""

FRESH = (
    'This takes a fresh sample: testing the same sample again after adding to '
    'it is not covered, except by the procedure growing.'
)
GROWING = 'The sample may grow by new problems and be tested again.'


class Refusal(ValueError):
  """The data at hand cannot bear a promise or an estimate.

  reason: what was refused and why, without the note.
  needed: about how many problems it would take, in a fresh sample unless the
    message says that this one may grow; None if no number would.
  """

  def __init__(self, message: str, needed: int | None, *, note: str = FRESH):
    """Makes the error.

    Args:
      message: what was refused and why, ending in a full stop.
      needed: see above.
      note: a sentence about trying again that ends the message: `FRESH`,
        `GROWING`, or empty where no test was made or none would help.
    """
    super().__init__(f'{message} {note}'.strip())
    self.reason = message
    self.needed = needed
