"""Opens the step scorer whose weights a directory holds."""

import pathlib

from routing.engines import embedded_reward
from routing.engines import process_reward
from routing.lm import reward_head


def load(
    folder: pathlib.Path, settings: process_reward.Settings
) -> embedded_reward.EmbeddedReward | process_reward.ProcessRewardModel:
  """Returns a `step_scorer.StepScorer`, which the caller closes.

  Args:
    folder: a process reward model of the embedded pair, or any other in one of
      `reward_formats.FORMATS`, which needs torch.
    settings: how the model is run.

  Raises:
    ValueError: if the directory holds a model of another kind, or a setting is
      not allowed.
  """
  if reward_head.is_reward_model(folder):
    return embedded_reward.EmbeddedReward(folder, settings)
  return process_reward.ProcessRewardModel(folder, settings)
