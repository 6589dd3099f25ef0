"""Tests that ladders give the same outcomes from columns as one by one."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from benchmarks import made_ladders
from routing import costs
from routing import protocols
from routing import types
from routing.features import batching
from routing.features import feature_rows
from routing.features import observation
from routing.features import standardize
from routing.features import text
from routing.outcomes import batches
from routing.outcomes import joined_tables
from routing.outcomes import ladder_tables
from routing.outcomes import records
from routing.shards import schema

SPECS = tuple(
    costs.spec_by_parameters(name, 10**size, size, 64)
    for name, size in (('small', 5), ('middle', 6), ('large', 7))
)
ALL = ('confidence', 'progress', 'cost', 'text', 'hidden')


def make(num=12, hidden_size=3):
  """Ladders of 2 to 20 steps, some without log-probabilities or state."""
  rng = np.random.default_rng(0)
  found = []
  for ladder in made_ladders.ladders('train', 0, num):
    size = int(rng.integers(2, made_ladders.NUM_STEPS + 1))
    steps = [
        dataclasses.replace(
            step,
            hidden=rng.normal(size=hidden_size).astype(np.float32)
            if rng.random() < 0.8
            else None,
            log_probs=step.log_probs
            if rng.random() < 0.8
            else np.zeros(0, np.float32),
        )
        for step in ladder.steps[:size]
    ]
    found.append(dataclasses.replace(ladder, steps=tuple(steps)))
  return found


def completed(ladder, num_decisions, num_routes=2, num_samples=1):
  """The ladder with all completions that so many decisions need."""
  rng = np.random.default_rng(len(ladder.problem.id))
  completions = tuple(
      types.Completion(
          step=t,
          route=m,
          sample=s,
          text='.',
          read=40 + t,
          written=int(rng.integers(9, 99)),
          seconds=float(rng.random()),
          is_correct=bool(rng.random() < 0.7),
          cached=int(rng.integers(5)),
          is_cut=None if rng.random() < 0.1 else bool(rng.random() < 0.1),
      )
      for t in range(min(num_decisions, len(ladder.steps)))
      for m in range(1, num_routes)
      for s in range(num_samples)
  )
  return dataclasses.replace(ladder, completions=completions)


def configure(groups=ALL, max_decisions=20, num_routes=2):
  return observation.configure(
      dict(groups=groups, question_width=32, step_width=64, max_ngram=3),
      num_routes=num_routes,
      max_decisions=max_decisions,
      hidden_size=3,
  )


def account(ladders, num_routes=2):
  accounting = costs.Accounting(SPECS[:num_routes], 'flops')
  return batching.with_reference(accounting, ladders)


def arrays(table):
  """Every array of an outcome table, by name."""
  found = {
      **{f'cost {k}': v for k, v in table.ending_cost.items()},
      **{f'large {k}': v for k, v in table.large_cost.items()},
  }
  for part in (table, table.decisions):
    for field in dataclasses.fields(part):
      value = getattr(part, field.name)
      if isinstance(value, np.ndarray):
        found[field.name] = value
  return found


def assert_same(test, found, expected):
  """Checks that two tables have the same arrays, to the last bit."""
  found, expected = arrays(found), arrays(expected)
  test.assertEqual(found.keys(), expected.keys())
  for name, value in expected.items():
    test.assertEqual(found[name].dtype, value.dtype, name)
    np.testing.assert_array_equal(found[name], value, err_msg=name)


class ColumnsTest(parameterized.TestCase):

  @parameterized.product(
      view=('peek', 'commit'),
      case=((20, 2, 1), (5, 2, 1), (8, 3, 2)),
  )
  def test_the_same_table_as_one_by_one(self, view, case):
    num_decisions, num_routes, num_samples = case
    ladders = [completed(x, *case) for x in make()]
    config = configure(max_decisions=num_decisions, num_routes=num_routes)
    given = config, account(ladders, num_routes)
    protocol = protocols.Protocol('escalate', view)
    shard = schema.LADDERS.to_table(ladders)
    found = ladder_tables.of_columns(shard, *given, protocol)
    self.assertIsNotNone(found)  # Not by the slow way.
    assert_same(self, found, records.ladder_table(ladders, *given, protocol))
    self.assertEqual(ladder_tables.samples(shard), set(range(num_samples)))

  def test_a_part_of_a_shard(self):
    ladders = [completed(x, 20) for x in make()]
    given = configure(), account(ladders), protocols.Protocol('escalate')
    shard = schema.LADDERS.to_table(ladders).slice(3, 5)
    found = ladder_tables.of_columns(shard, *given)
    assert_same(self, found, records.ladder_table(ladders[3:8], *given))

  def test_the_cost_of_the_largest_model(self):
    ladders = [completed(x, 20, 3, 2) for x in make()]
    found = ladder_tables.large_costs(
        schema.LADDERS.to_table(ladders), account(ladders, 3)
    )
    expected = [
        batching.all_large_cost(x, account(ladders, 3)) for x in ladders
    ]
    np.testing.assert_array_equal(found, expected)

  def test_ladders_that_are_not_regular_are_read_one_by_one(self):
    ladders = [completed(x, 20) for x in make()]
    given = configure(), account(ladders), protocols.Protocol('escalate')
    first = ladders[0]
    bad = {
        'has no completion': dataclasses.replace(
            first, completions=first.completions[:-1]
        ),
        'not finite': dataclasses.replace(
            first,
            steps=(
                *first.steps[:-1],
                dataclasses.replace(
                    first.steps[-1],
                    log_probs=np.full(
                        first.steps[-1].num_tokens, np.nan, np.float32
                    ),
                ),
            ),
        ),
    }
    for message, ladder in bad.items():
      shard = schema.LADDERS.to_table([*ladders[1:], ladder])
      with self.subTest(message):
        self.assertIsNone(ladder_tables.of_columns(shard, *given))
        with self.assertRaisesRegex(ValueError, message):
          ladder_tables.of_shard(shard, *given)

  def test_other_numbers_of_alternatives_are_read_one_by_one(self):
    ladders = [completed(x, 20) for x in make()]
    step = ladders[0].steps[0]
    fewer = dataclasses.replace(step, top_log_probs=step.top_log_probs[:, :2])
    ladders[0] = dataclasses.replace(
        ladders[0], steps=(fewer, *ladders[0].steps[1:])
    )
    given = configure(), account(ladders), protocols.Protocol('escalate')
    found = ladder_tables.of_shard(schema.LADDERS.to_table(ladders), *given)
    assert_same(self, found, records.ladder_table(ladders, *given))

  @parameterized.parameters((16, 3), (5, 1), (8, 5), (0, 2))
  def test_n_grams_of_many_texts(self, width, largest):
    texts = ['', 'a', 'b a', '12 and 3 are 15.', 'a b a b a b', '12 and 3']
    expected = [text.hash_ngrams(x, width, largest) for x in texts]
    np.testing.assert_array_equal(
        text.hash_all(texts, width, largest), np.stack(expected)
    )


class BatchTest(absltest.TestCase):

  def test_batches_of_shorter_ladders_have_as_many_levels(self):
    ladders = [completed(x, 3) for x in make()]
    given = configure(max_decisions=3), account(ladders)
    table = records.ladder_table(
        ladders, *given, protocols.Protocol('escalate')
    )
    statistics = standardize.measure_decisions(table.decisions.features)
    short, long = (
        batches.outcome_batch(table, statistics, 'price', widths)
        for widths in (0, 5)
    )
    self.assertEqual((short.widths, long.widths), ((1,) * 3, (1,) * 5))
    for name in ('features', 'correct', 'cost', 'loss', 'branch'):
      found = getattr(long, name)
      np.testing.assert_array_equal(found[:, :3], getattr(short, name))
      self.assertFalse(found[:, 3:].any())
    self.assertFalse(long.mask[:, 3:].any())


class JoinedTest(absltest.TestCase):

  def test_parts_joined_are_the_whole(self):
    ladders = [completed(x, 20) for x in make()]
    given = configure(), account(ladders), protocols.Protocol('escalate')
    whole = records.ladder_table(ladders, *given)
    parts = [
        records.ladder_table(x, *given) for x in (ladders[:5], ladders[5:])
    ]
    assert_same(self, joined_tables.joined(parts), whole)
    # The same where features go to a file.
    on_disk = joined_tables.joined(parts, feature_rows.Writer(max_bytes=0))
    self.assertIsInstance(on_disk.decisions.features, feature_rows.Rows)
    np.testing.assert_array_equal(
        np.asarray(on_disk.decisions.features), whole.decisions.features
    )
    with self.assertRaisesRegex(ValueError, 'no outcome table'):
      joined_tables.joined([])

  def test_rows_in_a_file_read_like_an_array(self):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 3)).astype(np.float32)
    writer = feature_rows.Writer(max_bytes=1_000)
    for part in np.split(rows, [2, 300, 9_000]):
      writer.add(part)
    found = writer.rows()
    self.assertIsInstance(found, feature_rows.Rows)
    self.assertEqual((found.shape, len(found)), (rows.shape, len(rows)))
    for chosen in (
        slice(3, 17_000),
        slice(19_990, 30_000),
        slice(5, 5),
        rng.integers(-20_000, 20_000, (7, 40)),
        rows[:, 0] > 2,
        np.zeros(0, int),
    ):
      np.testing.assert_array_equal(found[chosen], rows[chosen])
    with self.assertRaisesRegex(ValueError, 'step'):
      _ = found[::2]
    for wrong in ([3, 20_000], [-20_001], [True, False]):
      with self.assertRaisesRegex(IndexError, 'allowed'):
        _ = found[np.array(wrong)]


if __name__ == '__main__':
  absltest.main()
