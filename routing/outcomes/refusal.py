"""The error of what the data at hand cannot answer."""


class Refusal(ValueError):
  """The data at hand cannot bear a promise or an estimate.

  needed: about how many fresh problems it would take; None if no number would.
  """

  def __init__(self, message: str, needed: int | None):
    super().__init__(message)
    self.needed = needed
