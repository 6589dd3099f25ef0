"""The error for promises and estimates that the data at hand cannot support."""

FRESH = (
    'Use a fresh sample: testing the same sample again after adding to it is '
    'not covered, except with calibration.procedure=growing.'
)
GROWING = 'This sample may grow by new problems and be tested again.'


class Refusal(ValueError):
  """Raised if the data at hand cannot support a promise or an estimate.

  reason: what was refused and why, without the note about trying again.
  needed: about how many problems are needed; None if no number is enough. These
    problems must be a fresh sample unless the message allows the present sample
    to grow.
  """

  def __init__(self, message: str, needed: int | None, *, note: str = FRESH):
    """Joins `message` and `note` to the text of the error.

    Args:
      message: what was refused and why, ending in a full stop.
      needed: about how many problems are needed; None if no number is enough.
      note: sentence about trying again, which ends the message: `FRESH`,
        `GROWING`, or empty where nothing was tested or no sample would help.
    """
    # An empty note must not leave a space at the end.
    super().__init__(f'{message} {note}'.strip())
    # Evaluation reports only the reason: the note concerns tests of promises,
    # and evaluation makes none.
    self.reason = message
    self.needed = needed
