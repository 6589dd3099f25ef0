"""Tests of what a configuration of servers is built into."""

import asyncio
import os
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from configs import arithmetic
from configs import arithmetic_paid
from configs import arithmetic_servers
from experiments import builders
from routing.engines import back_ends
from routing.engines import engine as engine_lib
from tests import scripted_pair
from tests import sessions


def _config(small=(), large=()):
  """The servers, with other settings of the routes."""
  config = arithmetic_servers.get_config('smoke')
  for route, settings in zip(config.routes, (small, large), strict=True):
    route['settings'].update(settings)
  return config


def _half_closed():
  """The small model's weights are at hand, the large one is bought."""
  config = arithmetic_paid.get_config('smoke')
  config.routes[1]['api_key_variable'] = ''
  return config


class KeysTest(absltest.TestCase):

  def test_a_missing_key_is_found_before_a_model_is_loaded(self):
    config = arithmetic_paid.get_config('smoke')
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(back_ends, 'make') as make,
    ):
      os.environ.pop('OPENAI_API_KEY', None)
      with self.assertRaisesRegex(ValueError, 'OPENAI_API_KEY is not set'):
        builders.engines(config)
    make.assert_not_called()


class DollarsTest(absltest.TestCase):

  def test_only_routes_with_prices_are_billed(self):
    config = arithmetic.get_config()
    for spec in builders.billed_specs(config):
      self.assertEqual((spec.price_input, spec.price_output), (0, 0))
    self.assertGreater(builders.specs(config)[0].price_output, 0)
    config.routes[1]['spec'] = dict(price_output=2.0)
    small, large = builders.billed_specs(config)
    self.assertEqual((small.price_output, large.price_output), (0, 2))

  def test_a_price_by_size_is_not_compared_with_a_list_price(self):
    config = arithmetic.get_config()
    # The small model's price by its size is .13 dollars.
    config.routes[1]['spec'] = dict(price_output=0.1)
    with self.assertRaisesRegex(ValueError, "Route 'small' has no price, and"):
      builders.specs(config)
    config.routes[0]['spec'] = dict(price_output=0.05)
    self.assertEqual(
        [x.price_output for x in builders.specs(config)], [0.05, 0.1]
    )

  def test_a_limit_in_dollars_needs_a_price(self):
    config = arithmetic.get_config()
    config.collect.limits.dollars = 3.0
    with self.assertRaisesRegex(ValueError, 'dollars is 3, but no route has'):
      builders.limits(config)
    config.routes[1]['spec'] = dict(price_output=2.0)
    self.assertEqual(builders.limits(config).dollars, 3.0)


class ServersTest(parameterized.TestCase):

  def test_each_route_has_its_own_settings(self):
    small, large = builders.engines(
        _config(large=dict(num_log_probs=0, seeds=False))
    )
    self.assertEqual((small.name, small.route), ('small', 0))
    self.assertEqual((large.name, large.route), ('large', 1))
    self.assertEqual(small.capabilities.num_log_probs, 5)
    self.assertEqual(large.capabilities.num_log_probs, 0)
    self.assertTrue(small.capabilities.seeds)
    self.assertFalse(large.capabilities.seeds)
    self.assertTrue(large.capabilities.counts_tokens)

  def test_hidden_states_are_refused_before_any_request(self):
    config = _config()
    config.features.groups = ('hidden',)
    with self.assertRaisesRegex(ValueError, "'small' .*hidden_size=0"):
      builders.engines(config)

  def test_known_weights_are_the_same_however_they_are_run(self):
    served, embedded = _config(), arithmetic.get_config('smoke')
    self.assertEqual(builders.specs(served), builders.specs(embedded))
    self.assertEqual(
        builders.model_identities(served), builders.model_identities(embedded)
    )

  def test_a_list_price_comes_before_the_weights(self):
    config = _config()
    before = builders.specs(config)
    config.routes[0]['spec'] = dict(price_output=7.0)
    small, large = builders.specs(config)
    self.assertEqual(small.price_output, 7.0)
    self.assertEqual(small.parameters, before[0].parameters)
    self.assertEqual(large, before[1])

  def test_a_bought_model_is_what_its_entry_says(self):
    config = _half_closed()
    small, large = builders.engines(config)
    self.assertTrue(small.capabilities.continues_prefix)
    self.assertFalse(large.capabilities.continues_prefix)
    self.assertFalse(large.capabilities.counts_tokens)
    self.assertEqual(builders.specs(config)[1].price_cached, 0.1)
    self.assertEqual(builders.model_identities(config)[1], 'gpt-4.1-mini')

  def test_what_its_entry_does_not_say_is_named(self):
    config = _half_closed()
    config.routes[1]['spec'] = dict(price_input=0.4)
    with self.assertRaisesRegex(
        ValueError, "'large' .* must give parameters, num_layers, .*out"
    ):
      builders.specs(config)

  def test_keys_come_from_the_environment(self):
    config = _config()
    config.routes[1]['api_key_variable'] = 'SOME_KEY'
    with mock.patch.dict(os.environ, {'SOME_KEY': 'secret'}):
      builders.engines(config)
    with self.assertRaisesRegex(ValueError, 'SOME_KEY is not set'):
      builders.engines(config)

  def test_steady_engines_share_a_ceiling(self):
    config = _config()
    config.collect.limits.tokens = 30
    bare = scripted_pair.make_engines(2)
    with mock.patch.object(builders, 'engines', return_value=bare):
      small, large = builders.steady_engines(config)
    self.assertEqual([small.route, large.route], [0, 1])
    # One request fits: it takes 5 tokens to read and writes 20 at most.
    asks = [sessions.ask('10:5\n', max_tokens=20)]
    asyncio.run(sessions.write_all(small, asks))
    with self.assertRaisesRegex(engine_lib.Stop, 'ceiling'):
      asyncio.run(sessions.write_all(large, asks))
    self.assertEqual([len(e.requests) for e in bare], [1, 0])

  def test_another_back_end_is_refused(self):
    config = _config()
    config.routes[0]['engine'] = 'abacus'
    with self.assertRaisesRegex(
        ValueError, "'abacus'; allowed: embedded, vllm, llama_cpp, openai"
    ):
      builders.engines(config)

  def test_an_unknown_setting_or_field_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'small' has the setting 'slots'"):
      builders.engines(_config(small=dict(slots=3)))
    config = _config()
    config.routes[1]['prices'] = {}
    with self.assertRaisesRegex(
        ValueError, r"routes\[1\] has the field 'prices'"
    ):
      builders.routes(config)
    del config.routes[1]['prices'], config.routes[1]['model']
    with self.assertRaisesRegex(ValueError, r"routes\[1\] has no 'model'"):
      builders.routes(config)

  def test_names_differ_and_one_model_is_too_few(self):
    config = _config()
    config.routes[1]['name'] = 'small'
    with self.assertRaisesRegex(ValueError, "'small', 'small'"):
      builders.routes(config)
    config.routes = config.routes[:1]
    with self.assertRaisesRegex(ValueError, 'two or more'):
      builders.routes(config)

  def test_back_ends_are_mixed(self):
    config = _config()
    embedded = arithmetic.get_config('smoke').routes[0]
    config.routes = (embedded, config.routes[1])
    small, large = builders.engines(config)
    self.assertGreater(small.capabilities.hidden_size, 0)
    self.assertEqual(large.capabilities.hidden_size, 0)

  def test_what_changes_an_answer_is_in_the_key(self):
    before = builders.answer_keys(_config())
    for entry, same in (
        (dict(base_url='http://elsewhere/v1', timeout=1.0), True),
        (dict(mode='prefill', is_vllm=False), False),
        (dict(max_length=128), False),
    ):
      after = builders.answer_keys(_config(large=entry))
      self.assertEqual(before == after, same, entry)
      self.assertEqual(before[0], after[0])
    for field, value in (
        ('prompt', dict(system='Be brief.')),
        ('template', dict(enable_thinking=False)),
        ('model', 'another'),
    ):
      config = _config()
      config.routes[1][field] = value
      self.assertNotEqual(before, builders.answer_keys(config), field)


if __name__ == '__main__':
  absltest.main()
