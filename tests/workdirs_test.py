"""Tests of work directories and of files from before fields were renamed."""

import json
import pathlib

from absl.testing import absltest

from configs import arithmetic
from configs import arithmetic_redraft
from configs import arithmetic_vllm
from configs import own_models
from experiments import command_line
from experiments import mistakes
from experiments import workdirs
from routing.calibration import looks
from routing.routers import card as card_lib
from routing.routers import promises


def _field(content, name):
  """Returns the value of a dotted field, or None."""
  for key in name.split('.'):
    content = content.get(key, {})
  return content or None


def _rename_back(content):
  """Returns a saved configuration as older code wrote it."""
  for old, new in workdirs.RENAMED.items():
    *group, last = new.split('.')
    *old_group, old_last = old.split('.')
    fields = content[group[0]] if group else content
    if last in fields:
      earlier = content[old_group[0]] if old_group else content
      earlier[old_last] = fields.pop(last)
  return content


class RenamedFieldsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path)
    self.config = arithmetic_redraft.get_config('vtrace-smoke')

  def test_each_current_name_is_a_field_and_each_old_one_is_none(self):
    configs = [
        self.config.to_dict(),
        arithmetic_vllm.get_config('smoke').to_dict(),
    ]
    for old, new in workdirs.RENAMED.items():
      found = [_field(x, new) for x in configs if new.split('.')[0] in x]
      self.assertNotEmpty(found, new)
      for config in configs:
        self.assertIsNone(_field(config, old), old)
    for config in configs:
      self.assertIsNone(workdirs.first_old_name(config))

  def test_an_object_store_is_only_for_collections(self):
    with self.assertRaisesRegex(ValueError, 'config.data.directory=s3://b/a'):
      workdirs.claim('s3://b/a', self.config)

  def test_who_collects_may_differ_when_a_run_continues(self):
    workdirs.claim(self.workdir, self.config)
    self.config.launcher = 'ray'
    self.config.ray.actors = 9
    self.assertEqual(workdirs.claim(self.workdir, self.config), self.workdir)

  def test_a_directory_of_before_continues(self):
    self.config.cost_metric = 'decoded_tokens'
    content = _rename_back(json.loads(self.config.to_json_best_effort()))
    self.assertEqual(content['ruler'], 'decoded_tokens')
    content['ruler'] = 'decoded'
    path = self.workdir / 'config.json'
    path.write_text(json.dumps(content))
    self.assertEqual(workdirs.claim(self.workdir, self.config), self.workdir)
    saved = command_line.saved_config(self.workdir)
    self.assertEqual(saved.cost_metric, 'decoded_tokens')
    self.assertEqual(saved.objective.ratio_clip, 10.0)
    self.config.calibration.num_thresholds = 7
    with self.assertRaisesRegex(ValueError, 'num_thresholds is 200 there, 7'):
      workdirs.claim(self.workdir, self.config)

  def test_a_command_with_an_old_name_says_the_current_one(self):
    words = ['--config=configs/arithmetic.py:smoke', '--config.ruler=flops']
    self.assertEqual(
        mistakes.config_problem(words),
        '--config.ruler is now called --config.cost_metric.',
    )

  def test_a_configuration_file_with_an_old_name_is_refused(self):
    path = self.workdir / 'mine.py'
    path.write_text(
        'from configs import arithmetic\n\n\n'
        'def get_config():\n'
        "  config = arithmetic.get_config('smoke')\n"
        '  config.evaluation.live = 3\n'
        '  return config\n'
    )
    self.assertRegex(
        mistakes.config_problem([f'--config={path}', '--workdir=x']),
        "'evaluation.live' is now called 'evaluation.num_live'",
    )


class ServingTest(absltest.TestCase):

  def test_how_answers_are_served_is_no_part_of_a_directory(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = arithmetic.get_config('smoke')
    content = json.loads(config.to_json_best_effort())
    del content['serving']  # From before there was a service.
    (workdir / 'config.json').write_text(json.dumps(content))
    self.assertEqual(workdirs.claim(workdir, config), workdir)
    config.serving.queue = 7
    self.assertEqual(workdirs.claim(workdir, config), workdir)
    config.seed = 7
    with self.assertRaisesRegex(ValueError, 'seed is 0 there, 7'):
      workdirs.claim(workdir, config)


class EnvironmentTest(absltest.TestCase):

  def test_what_vllm_prints_is_not_part_of_a_configuration(self):
    current = json.loads(own_models.get_config().to_json_best_effort())
    saved = json.loads(json.dumps(current))
    saved['environment']['VLLM_LOGGING_LEVEL'] = 'WARNING'  # As it was before.
    self.assertEqual(workdirs.upgrade(saved), current)
    self.assertIn('VLLM_LOGGING_LEVEL', saved['environment'])


class RoutesTest(absltest.TestCase):
  """The group `engine` of before becomes `routes`."""

  def test_embedded(self):
    engine = dict(pair='shipped', max_batch=128, num_slots=256)
    found = workdirs.upgrade({'engine': engine})
    current = json.loads(arithmetic.get_config().to_json_best_effort())
    self.assertEqual(found, {'routes': current['routes']})
    own = workdirs.upgrade({'engine': dict(engine, pair='runs/pair')})
    self.assertEqual(own['routes'][1]['model'], 'runs/pair/large')

  def test_vllm(self):
    engine = dict(
        kind='vllm',
        pair=['shipped', '/models/large'],
        user='',
        system='',
        cache_bytes=[1, 2],
        runs_on=False,
        environment={'A': 'b'},
    )
    found = workdirs.upgrade({'engine': engine})
    self.assertEqual(found['environment'], {'A': 'b'})
    self.assertEqual(
        found['routes'],
        [
            dict(
                name=name,
                engine='vllm',
                model=model,
                settings=dict(cache_bytes=size, speculates=False),
            )
            for name, model, size in (
                ('small', 'shipped/small', 1),
                ('large', '/models/large', 2),
            )
        ],
    )

  def test_servers(self):
    engine = dict(
        kind='openai',
        pair=['shipped', ''],
        model=['s', 'gpt'],
        base_url=['http://a', 'http://b'],
        api_key_variable=['', 'KEY'],
        user='{question}?',
        system='S',
        specs=dict(small={}, large=dict(price_input=1.0)),
    )
    small, large = workdirs.upgrade({'engine': engine})['routes']
    self.assertEqual((small['model'], small['weights']), ('s', 'shipped/small'))
    self.assertEqual((large['model'], large['weights']), ('gpt', ''))
    self.assertEqual(large['api_key_variable'], 'KEY')
    self.assertEqual(large['spec'], {'price_input': 1.0})
    self.assertEqual(large['settings'], {'base_url': 'http://b'})
    self.assertEqual(large['prompt'], dict(system='S', user='{question}?'))
    self.assertNotIn('engine', workdirs.upgrade({'engine': engine}))


class OlderFilesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.create_tempdir().full_path)

  def test_operating_points_name_the_policy_otherwise(self):
    entry = {
        'name': 'cost<=0.4',
        'member': 2,
        'threshold': 0.5,
        'promise': {'what': 'cost', 'level': 0.4},
        'checkpoint_hash': 'a',
    }
    path = self.directory / 'operating_points.json'
    path.write_text(json.dumps([entry]))
    (point,) = card_lib.read_points(path)
    self.assertEqual(point.policy_index, 2)

  def test_looks_keep_their_settings_under_current_names(self):
    settings = {'among': 3, 'both': [], 'grid': 9, 'ruler': 'price', 'delta': 1}
    content = [dict(data='d', problems='p', num_problems=4, settings=settings)]
    path = self.directory / looks.FILE_NAME
    path.write_text(json.dumps(content))
    (look,) = looks.read(path)
    self.assertEqual(
        look.settings,
        {
            'num_choices': 3,
            'loss_and_cost': [],
            'num_thresholds': 9,
            'cost_metric': 'price',
            'delta': 1,
        },
    )

  def test_a_promise_for_a_choice_among_several(self):
    promise = {'what': 'loss', 'level': 0.05, 'delta': 0.02, 'n': 500}
    self.assertEqual(
        promises.in_words(promise | {'among': 5}),
        promises.in_words(promise | {'num_choices': 5}),
    )
    self.assertNotEqual(
        promises.in_words(promise | {'among': 5}), promises.in_words(promise)
    )

  def test_the_shipped_card_has_the_name_of_its_format(self):
    path = pathlib.Path(card_lib.__file__).with_name('shipped') / 'router.json'
    content = json.loads(path.read_text())['card']
    self.assertEqual(content['ruler'], 'price')
    card = card_lib.Card.from_json(content)
    self.assertEqual(card.metric, arithmetic.get_config().cost_metric)
    self.assertEqual(card.to_json(), content)


if __name__ == '__main__':
  absltest.main()
