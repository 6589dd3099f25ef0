"""Settings of the service, the part `serving` of a configuration."""

from collections.abc import Sequence
import dataclasses

FALL_BACKS = ('large', 'small', 'none')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a service allows, and what it does in trouble.

  point: operating point of the model `router`; '' = the first of the router.
  concurrency: number of answers written at the same time.
  queue: number of answers that may wait for their turn; others get 429.
  max_body_bytes: largest body of a request.
  max_question_characters: largest length of a question.
  max_choices: largest `n` times the number of prompts of one request.
  attempts: attempts at a request to a back end; see `resilience.Limits`.
  first_wait: seconds before the second attempt.
  fall_back: what answers while a back end is down, one of `FALL_BACKS`: the
    largest model alone, the smallest alone, or nothing (503).
  retry_down_after: seconds until a back end that failed is tried again.
  cors_origins: origins whose pages may call the service; () = none.
  shadow_share: share of routed answers, in [0, 1], for which the largest model
    alone answers too, in the background.
  online_alpha: relative loss that the model `router@online` keeps in the long
    run, from feedback; 0 = there is no such model.
  alarm_delta: probability of ever raising a false drift alarm, per point.
  large_errors: share of answers that the largest model alone gets wrong. Where
    there is no graded shadow, such errors cannot be told from losses, so that
    the alarm allows for them.
  alarm_falls_back: whether the largest model alone answers at a point whose
    drift alarm was raised.
  keep_answers: number of answers that are kept until feedback comes.

  Raises:
    ValueError: on a value that is not allowed.
  """

  point: str = ''
  concurrency: int = 64
  queue: int = 256
  max_body_bytes: int = 1_000_000
  max_question_characters: int = 20_000
  max_choices: int = 8
  attempts: int = 2
  first_wait: float = 0.2
  fall_back: str = 'large'
  retry_down_after: float = 5.0
  cors_origins: Sequence[str] = ()
  shadow_share: float = 0.0
  online_alpha: float = 0.0
  alarm_delta: float = 0.01
  large_errors: float = 0.05
  alarm_falls_back: bool = False
  keep_answers: int = 10_000

  def __post_init__(self):
    if self.fall_back not in FALL_BACKS:
      raise ValueError(
          f'serving.fall_back is {self.fall_back!r}; allowed: '
          f'{", ".join(FALL_BACKS)}.'
      )
    for name, least in (
        *(('concurrency', 1), ('queue', 0), ('max_body_bytes', 1)),
        *(('max_question_characters', 1), ('max_choices', 1), ('attempts', 1)),
        *(('first_wait', 0), ('retry_down_after', 0), ('keep_answers', 0)),
    ):
      if not (value := getattr(self, name)) >= least:
        raise ValueError(f'serving.{name} is {value}; allowed: >= {least}.')
    for name in ('shadow_share', 'online_alpha', 'large_errors'):
      if not 0 <= (value := getattr(self, name)) <= 1:
        raise ValueError(f'serving.{name} is {value}; allowed: 0 to 1.')
    if self.online_alpha == 1 or not 0 < self.alarm_delta < 1:
      raise ValueError(
          f'serving.online_alpha is {self.online_alpha} and alarm_delta is '
          f'{self.alarm_delta}; both must be below 1, and the second above 0.'
      )
