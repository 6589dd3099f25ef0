"""The error for a question that the data at hand cannot answer."""

FRESH = (
    'Use a fresh sample: testing the same sample again after adding to it is '
    'not covered, except with calibration.procedure=growing.'
)
GROWING = 'This sample may grow by new problems and be tested again.'


class Refusal(ValueError):
  """The data at hand cannot support a promise or an estimate.

  reason: what was refused and why, without the note.
  needed: about how many problems are needed; None if no number is enough.
    They must be a fresh sample unless the message allows this one to grow.
  """

  def __init__(self, message: str, needed: int | None, *, note: str = FRESH):
    """Makes the error.

    Args:
      message: what was refused and why, ending in a full stop.
      needed: about how many problems are needed; None if no number is enough.
      note: sentence about trying again, which ends the message: `FRESH`,
        `GROWING`, or empty where nothing was tested or no sample would help.
    """
    # An empty note must not leave a space at the end.
    super().__init__(f'{message} {note}'.strip())
    # An evaluation reports the reason alone: the note is about tests.
    self.reason = message
    self.needed = needed
