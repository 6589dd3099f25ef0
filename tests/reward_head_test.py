"""The embedded pair's reward model: labels, training, files, scores, cost."""

import functools
import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from configs import arithmetic_reward
from experiments import train_reward_head
from routing.engines import embedded_reward
from routing.engines import process_reward
from routing.engines import route as route_lib
from routing.engines import scorers
from routing.lm import decoder
from routing.lm import examination
from routing.lm import export
from routing.lm import reward_head
from routing.lm import reward_training
from routing.lm import tokenizer as tokenizer_lib
from routing.tasks import arithmetic
from routing.tasks import counters

_SHAPE = decoder.DecoderConfig(
    len(tokenizer_lib.VOCABULARY), 32, 1, 1, 1, 32, 16
)
_init_params = jax.jit(decoder.init_params, static_argnums=0)
_TASKS = [counters.to_exercise(p) for p in arithmetic.load(1, test=8)['test']]
# P gets 27, then Q loses 13; asked for P.
_TASK = counters.Exercise(
    (counters.Clause(0, 'add', 27), counters.Clause(1, 'sub', 13)), 0, (12, 93)
)


@functools.cache
def _untrained():
  """Returns shape and parameters of an untrained reward model."""
  trunk = _init_params(_SHAPE, jax.random.key(0))
  # Far from zero, so that scores differ.
  trunk = jax.tree.map(lambda x: 2.0 * x, trunk)
  return reward_head.init_params(_SHAPE, trunk, jax.random.key(1))


def _config(**fields):
  config = arithmetic_reward.get_config('smoke')
  config.update(num_steps=4, batch_size=3, save_every=2, **fields)
  return config


@functools.cache
def _examples():
  return reward_training.label(
      _TASKS, [counters.solution(x, misconceived=True) for x in _TASKS]
  )


def _train(directory, write=lambda step, scalars: None):
  return reward_training.train(
      _config(), *_untrained(), _examples(), directory, write=write
  )


class LabelTest(absltest.TestCase):

  def test_right_steps_by_hand(self):
    steps = [
        'a) P gets 27: 12 + 27 = 29. P=29 Q=93\n\n',  # Wrong: 39.
        'b) Q loses 13: 93 - 13 = 80. P=29 Q=80\n\n',  # Right after it.
        '#### P = 29',
        'P',
    ]
    expected = [
        'a) P gets 27: 12 + 27 = 39. P=39 Q=93\n\n',
        *steps[1:3],
        None,
    ]
    self.assertEqual(counters.right_steps(_TASK, steps), expected)
    self.assertEqual(
        counters.right_steps(_TASK, ['P', 'P']), [expected[0], None]
    )
    self.assertEqual(counters.right_steps(_TASK, []), [])

  def test_tokens_are_right_up_to_the_first_wrong_one(self):
    steps = [
        'a) P gets 27: 12 + 27 = 49. P=49 Q=93\n\n',
        'b) Q loses 13: 93 - 13 = 80. P=49 Q=80\n\n',
        '#### P = 49',
    ]
    found = reward_training.label([_TASK], [steps])
    num_question = len(
        tokenizer_lib.Tokenizer().encode(counters.question_text(_TASK))
    )
    np.testing.assert_array_equal(found.mask[0], [True] * 3 + [False] * 5)
    np.testing.assert_array_equal(
        found.is_right[0], [False, True, True] + [False] * 5
    )
    # 'a) ' 'P' ' gets ' '2' '7' ': ' '1' '2' ' + ' '2' '7' ' = ' are right.
    first = found.is_right_so_far[0, num_question : found.ends[0, 0] + 1]
    np.testing.assert_array_equal(first, [True] * 12 + [False] * 10)
    rest = found.is_right_so_far[0, found.ends[0, 0] + 1 :]
    mask = found.token_mask[0, found.ends[0, 0] + 1 :]
    np.testing.assert_array_equal(rest, mask)
    self.assertFalse(found.token_mask[0, :num_question].any())
    self.assertEqual(found.token_mask[0].sum(), 2 * 22 + 6)
    for end in found.ends[0, :3]:
      self.assertEqual(found.tokens[0, end], reward_head.SEPARATOR_ID)

  def test_a_step_that_is_cut_is_wrong_only_at_its_end(self):
    steps = ['a) P gets 27: 12 + 27 = 39. P=39 Q=93']  # No delimiter.
    found = reward_training.label([_TASK], [steps])
    self.assertFalse(found.is_right[0, 0])
    self.assertEqual(found.is_right_so_far.sum(), 21)

  def test_summary_by_hand(self):
    right = np.array([0.9, 0.8, 0.3, 0.05])
    is_right = np.array([True, False, True, False])
    # Bins [.9, 1]: |.9 - 1|; [.8, .9): |.8 - 0|; [.3, .4): |.3 - 1|;
    # [0, .1): |.05 - 0|; the mean of 0.1, .8, .7, .05 is .4125.
    # Pairs (wrong, right): (.8, .9) and (.05, .9), (.05, .3) are in order,
    # (.8, .3) is not: AUC 3/4. Brier: (.01 + .64 + .49 + .0025) / 4 = .2856.
    self.assertEqual(
        reward_training.summary(right, is_right),
        {
            'auc': 0.75,
            'brier': 0.2856,
            'calibration_error': 0.4125,
            'mean': 0.5125,
            'share_right': 0.5,
            'steps': 4,
        },
    )
    self.assertIsNone(reward_training.summary(right, is_right | True)['auc'])


class TrainTest(parameterized.TestCase):

  def test_loss_counts_steps_and_tokens_once_each(self):
    shape, params = _untrained()
    rows = _examples()
    logits = np.asarray(reward_head.logits(params, shape, rows.tokens))
    top = logits.max(-1)
    log_norm = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    chosen = np.where(rows.is_right_so_far, logits[..., 1], logits[..., 0])
    nats = log_norm - chosen
    at_ends = [
        nats[i, end]
        for i in range(len(rows))
        for end, real in zip(rows.ends[i], rows.mask[i], strict=True)
        if real
    ]
    expected = np.mean(at_ends) + nats[rows.token_mask].mean()
    found = reward_training.loss(params, shape, *rows.arrays())
    np.testing.assert_allclose(found, expected, rtol=1e-5)

  def test_resumed_run_equals_uninterrupted_run(self):
    whole = _train(self.create_tempdir().full_path)

    class Killed(Exception):
      pass

    def die(step, _):
      if step == 4:
        raise Killed

    directory = self.create_tempdir().full_path
    with self.assertRaises(Killed):
      _train(directory, die)
    written = []
    resumed = _train(directory, lambda step, _: written.append(step))
    self.assertEqual(written, [4])
    chex.assert_trees_all_equal(whole, resumed)
    # The parameters that it began with are not used up.
    self.assertEqual(jax.tree.leaves(_untrained()[1])[0].dtype, np.float32)

  def test_every_epoch_sees_all_examples(self):
    found = [reward_training.batch_index(7, 3, 0, step) for step in range(4)]
    for epoch in (found[:2], found[2:]):
      self.assertLen(set(np.concatenate(epoch).tolist()), 6)
    self.assertNotEqual(found[0].tolist(), found[2].tolist())

  def test_a_batch_needs_enough_examples(self):
    config = _config()
    config.batch_size = 9
    with self.assertRaisesRegex(ValueError, '8 examples and batch_size is 9'):
      reward_training.train(
          config, *_untrained(), _examples(), '', write=lambda *_: None
      )

  def test_command_writes_a_model_and_its_card(self):
    pair = pathlib.Path(self.create_tempdir().full_path)
    for seed, name in enumerate(export.MODELS):
      params = _init_params(_SHAPE, jax.random.key(seed))
      export.save_pretrained(pair / name, _SHAPE, params)
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = arithmetic_reward.get_config('smoke')
    config.pair = str(pair)
    train_reward_head.main(config, str(workdir))
    folder = workdir / train_reward_head.FOLDER
    card = json.loads((workdir / train_reward_head.CARD_FILE).read_text())
    self.assertEqual(card['answers'], 12)
    # The file has biases of zero besides, which Qwen2's format asks for.
    _, params = reward_head.load(folder)
    self.assertEqual(
        card['parameters'], decoder.num_parameters(params) + 3 * 32
    )
    self.assertGreater(card['test']['small']['steps'], 0)


class ScorerTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    reward_head.save(self.folder, *_untrained())
    self.answers = [
        (counters.question_text(x), counters.solution(x)) for x in _TASKS
    ]

  def test_transformers_reads_the_same_file_and_agrees(self):
    ours = embedded_reward.EmbeddedReward(self.folder)
    theirs = process_reward.ProcessRewardModel(
        self.folder, process_reward.Settings(dtype='float32')
    )
    for a, b in zip(
        ours.score(self.answers), theirs.score(self.answers), strict=True
    ):
      np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
      np.testing.assert_array_equal(a.read, b.read)
    self.assertGreater(np.ptp(a.scores), 0.01)

  def test_a_score_is_that_of_the_answer_so_far(self):
    scorer = embedded_reward.EmbeddedReward(self.folder)
    (whole,) = scorer.score(self.answers[:1])
    question, steps = self.answers[0]
    for t in range(len(steps)):
      (part,) = scorer.score([(question, steps[: t + 1])])
      np.testing.assert_allclose(part.scores, whole.scores[: t + 1], atol=1e-5)
    ids, _ = reward_head.encode(question, steps)
    self.assertEqual(whole.read.sum(), len(ids))
    np.testing.assert_array_equal(
        whole.usage().cached, np.cumsum(whole.read) - whole.read
    )
    self.assertGreater(whole.seconds.min(), 0)

  def test_the_directory_says_which_scorer_it_needs(self):
    settings = process_reward.Settings(batch_size=3)
    scorer = scorers.load(self.folder, settings)
    self.assertIsInstance(scorer, embedded_reward.EmbeddedReward)
    self.assertLen(scorer.score(self.answers), len(self.answers))
    with self.assertRaisesRegex(ValueError, 'LlamaForCausalLM.*needs'):
      scorers.load(export.shipped('small'), settings)
    with self.assertRaisesRegex(ValueError, 'no process reward model of the'):
      reward_head.load(export.shipped('small'))

  @parameterized.parameters(
      (dict(dtype='float32'), "settings.dtype is 'float32'"),
      (dict(max_length=50), 'at most 50'),
  )
  def test_settings_that_are_not_allowed(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      embedded_reward.EmbeddedReward(
          self.folder, process_reward.Settings(**fields)
      ).score(self.answers)

  def test_an_answer_without_steps(self):
    scorer = embedded_reward.EmbeddedReward(self.folder)
    with self.assertRaisesRegex(ValueError, 'has 0 steps'):
      scorer.score([(self.answers[0][0], [])])


class ShippedTest(absltest.TestCase):

  def test_wrong_steps_score_lower(self):
    route = route_lib.Route('scorer', 'process_reward', 'shipped/reward')
    scorer = scorers.load(route.folder, process_reward.Settings(batch_size=32))
    problems = arithmetic.load(1, test=32)['test']
    tasks = [counters.to_exercise(p) for p in problems]
    answers = [counters.solution(x, misconceived=True) for x in tasks]
    found = scorer.score(
        [(p.question, x) for p, x in zip(problems, answers, strict=True)]
    )
    scores = np.concatenate([x.scores for x in found])
    is_right = np.concatenate(
        [
            [label.is_right for label in counters.label_steps(task, steps)]
            for task, steps in zip(tasks, answers, strict=True)
        ]
    )
    self.assertGreater(examination.auc(-scores, ~is_right), 0.9)

  def test_it_is_charged_by_its_own_size(self):
    route = route_lib.Route('scorer', 'process_reward', 'shipped/reward')
    _, params = reward_head.load(route.folder)
    spec = route.cost_spec()
    # Qwen2's format has biases, which are zero here, besides the weights.
    _, trunk = export.load_pretrained(export.shipped('large'))
    self.assertGreater(spec.parameters, decoder.num_parameters(trunk))
    self.assertLess(spec.parameters / decoder.num_parameters(params), 1.01)


if __name__ == '__main__':
  absltest.main()
