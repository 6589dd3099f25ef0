"""Records of other models than the router's are refused, at every stage."""

import dataclasses
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import arithmetic_redraft
from experiments import builders
from experiments import evaluate
from experiments import records_on_disk
from experiments import split_on_disk
from experiments import train
from experiments import training_data
import routing
from routing.routers import card as card_lib
from routing.routers import learned
from routing.shards import manifest as manifest_lib
from tests import train_experiment_test
from tests import train_rollouts_test

_WEIGHTS = ('hash of small', 'gpt-of-some-date')


def make_config(**changes):
  """Of the ladders that `make_workdir` collects."""
  config = arithmetic.get_config('smoke')
  config.features.update(question_width=8, step_width=8)
  config.objective.levels = (0.5,)
  config.num_steps = config.eval_every = config.log_every = 2
  config.update(changes)
  return config


def note_weights(directory, weights):
  """Writes into a manifest which models the records are of."""
  manifest = manifest_lib.load(directory)
  settings = {**manifest.settings, 'weights_sha256': list(weights)}
  changed = dataclasses.replace(manifest, settings=settings)
  manifest_lib.save(directory, changed)


def make_card(weights):
  """A card of the shipped router, trained on other weights."""
  return dataclasses.replace(
      learned.load('shipped').card, weights_sha256=weights
  )


class ShardsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    train_experiment_test.collect_ladders(self.workdir)
    self.shards = self.workdir / 'shards'
    for split in ('train', 'select'):
      note_weights(self.shards / split, _WEIGHTS)

  def test_a_router_says_what_it_was_trained_on(self):
    config = make_config()
    (directory,) = train.train_all(config, self.workdir)
    card = routing.load(directory).card
    self.assertEqual(card.weights_sha256, _WEIGHTS)
    records_on_disk.source(config, self.workdir, 'select', card, 'known')
    with self.assertRaisesRegex(ValueError, "'Known'; allowed: known, recor"):
      records_on_disk.source(config, self.workdir, 'select', card, 'Known')
    note_weights(self.shards / 'select', ('hash of small', 'gpt-of-another'))
    with self.assertRaisesRegex(
        ValueError,
        'select is of models with weights hash of small, gpt-of-another, but '
        'the router was trained on hash of small, gpt-of-some-date',
    ):
      records_on_disk.source(config, self.workdir, 'select', card, 'known')

  def test_training_refuses_select_of_another_pair(self):
    note_weights(self.shards / 'select', ('hash of another', _WEIGHTS[1]))
    with self.assertRaisesRegex(
        ValueError, 'select was .* weights hash of another.*hash of small'
    ):
      training_data.load(make_config(), self.workdir)

  def test_training_from_rollouts_does_so_too(self):
    train_rollouts_test.collect(self.workdir)
    note_weights(self.workdir / 'rollouts' / 'train', _WEIGHTS)
    with self.assertRaisesRegex(
        ValueError, 'select was .* weights that were not'
    ):
      training_data.load(train_rollouts_test.make_config(), self.workdir)
    note_weights(self.workdir / 'rollouts' / 'select', _WEIGHTS)
    for config in (
        train_rollouts_test.make_config(),
        train_rollouts_test.make_config(stream={'num_shards_in_memory': 20}),
    ):
      data = training_data.load(config, self.workdir)
      self.assertEqual(data.view.weights_sha256, _WEIGHTS)

  def test_training_on_policy_takes_engines_of_the_same_pair(self):
    train_rollouts_test.collect(self.workdir)
    for split in ('train', 'select'):
      note_weights(self.workdir / 'rollouts' / split, _WEIGHTS)
    config = arithmetic_redraft.get_config('on_policy-smoke')
    data = training_data.load(config, self.workdir)
    with self.assertRaisesRegex(ValueError, 'The configuration is of models'):
      with train._batches(config, self.workdir, 0, data):
        pass

  def test_learners_refuse_train_of_another_pair(self):
    config = make_config()
    (directory,) = train.train_all(config, self.workdir)
    router = routing.load(directory)
    evaluate._training_records(config, self.workdir, router)
    note_weights(self.shards / 'train', ('hash of another', _WEIGHTS[1]))
    with self.assertRaisesRegex(ValueError, 'hash of another.* hash of small'):
      evaluate._training_records(config, self.workdir, router)

  def test_points_of_other_records_are_refused(self):
    prove = split_on_disk.Split(
        self.shards / 'select', split_on_disk.KINDS['ladders']
    )
    router = learned.load('shipped')
    for shards_hash in ('', prove.manifest.content_hash):
      points = [dataclasses.replace(router.points[0], shards_hash=shards_hash)]
      router.points = tuple(points)
      evaluate._check_calibrated(router, prove)
    router.points = (dataclasses.replace(points[0], shards_hash='4caabb9d'),)
    with self.assertRaisesRegex(ValueError, 'on shards 4caabb9d, but .*again'):
      evaluate._check_calibrated(router, prove)


class CardTest(absltest.TestCase):

  def test_live_answers_come_from_the_same_models(self):
    config = arithmetic.get_config('smoke')
    card = make_card(tuple(builders.model_identities(config)))
    self.assertEqual(
        records_on_disk.answering(config, card).made_by['weights_sha256'],
        list(card.weights_sha256),
    )
    with self.assertRaisesRegex(
        ValueError, f'{card.weights_sha256[0]}.* the router was trained on a, b'
    ):
      records_on_disk.answering(config, make_card(('a', 'b')))

  def test_the_shipped_router_is_of_the_shipped_pair(self):
    router = learned.load('shipped')
    weights = builders.model_identities(arithmetic.get_config('full'))
    self.assertEqual(router.card.weights_sha256, tuple(weights))
    self.assertNotEmpty(router.points[0].shards_hash)

  def test_cards_from_before_keep_their_hash(self):
    card = make_card(())
    content = card.to_json()
    self.assertNotIn('weights_sha256', content)
    self.assertEqual(card_lib.Card.from_json(content), card)
    split_on_disk.check_weights(card, ('any', 'pair'), 'This is')
    named = make_card(_WEIGHTS)
    self.assertEqual(card_lib.Card.from_json(named.to_json()), named)
    self.assertNotEqual(
        card_lib.hash_arrays({}, content),
        card_lib.hash_arrays({}, named.to_json()),
    )


if __name__ == '__main__':
  absltest.main()
