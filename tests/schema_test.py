"""Tests of the conversion of ladders and rollouts to tables and back."""

import dataclasses
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pyarrow as pa

from routing import protocols
from routing import types
from routing.engines import boundaries
from routing.features import traces
from routing.shards import columns
from routing.shards import schema
from routing.tasks import splits
from tests import scripted_pair


class SchemaTest(parameterized.TestCase):

  def test_ladders_come_back_exactly(self):
    ladders = scripted_pair.make_ladders(7)
    back = schema.LADDERS.from_table(schema.LADDERS.to_table(ladders))
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, ladders)),
    )

  @parameterized.parameters('escalate', 'switch', 'redraft')
  def test_rollouts_come_back_exactly(self, protocol):
    rollouts = scripted_pair.make_rollouts(5, protocol=protocol)
    # No trajectory at all, one without discarded drafts, one without calls.
    rollouts[0] = dataclasses.replace(rollouts[0], trajectories=())
    x, y = rollouts[1].trajectories
    bare = dataclasses.replace(
        x, steps=(), discarded=(), decisions=(), calls=()
    )
    rollouts[1] = dataclasses.replace(
        rollouts[1], trajectories=(bare, dataclasses.replace(y, discarded=()))
    )
    back = schema.ROLLOUTS.from_table(schema.ROLLOUTS.to_table(rollouts))
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, rollouts)),
    )
    self.assertEmpty(schema.ROLLOUTS.from_table(schema.ROLLOUTS.to_table([])))

  def test_rollouts_from_before_calls_had_kinds(self):
    rollouts = scripted_pair.make_rollouts(5, num_ahead=1)
    kinds = {
        call.kind
        for x in rollouts
        for trajectory in x.trajectories
        for call in trajectory.calls
    }
    self.assertEqual(kinds, {'draft', 'step', 'wasted'})
    # The column as it was written then.
    call = pa.struct([field for field in columns.CALL if field.name != 'kind'])
    old = pa.struct(
        [
            pa.field('calls', pa.list_(call)) if x.name == 'calls' else x
            for x in schema.TRAJECTORY
        ]
    )
    with (
        mock.patch.multiple(columns, CALL=call),
        mock.patch.multiple(schema, TRAJECTORY=old),
    ):
      kind = dataclasses.replace(
          schema.ROLLOUTS,
          fields=[schema.ROLLOUTS.fields[0], ('trajectories', pa.list_(old))],
      )
      table = kind.to_table(rollouts)
    back = schema.ROLLOUTS.from_table(table)
    for x, y in zip(rollouts, back, strict=True):
      for a, b in zip(x.trajectories, y.trajectories, strict=True):
        self.assertEqual(
            b.calls, tuple(dataclasses.replace(c, kind='') for c in a.calls)
        )
        protocol = protocols.Protocol('redraft')
        self.assertEqual(
            traces.num_calls_seen(b, protocol),
            traces.num_calls_seen(a, protocol),
        )

  def test_ladders_from_before_steps_said_whether_they_were_complete(self):
    ladders = scripted_pair.make_ladders(3)
    old = pa.struct([x for x in columns.STEP if x.name != 'is_complete'])
    fields = [
        (name, pa.list_(old) if name == 'steps' else kind)
        for name, kind in schema.LADDERS.fields
    ]
    with mock.patch.object(columns, 'STEP', old):
      table = dataclasses.replace(schema.LADDERS, fields=fields).to_table(
          ladders
      )
    for ladder, back in zip(
        ladders, schema.LADDERS.from_table(table), strict=True
    ):
      for a, b in zip(ladder.steps, back.steps, strict=True):
        self.assertIsNone(b.is_complete)
        self.assertEqual(boundaries.is_cut(a), boundaries.is_cut(b))

  def test_ladders_from_before_completions_said_whether_they_were_cut(self):
    ladder, *_ = scripted_pair.make_ladders(1)
    cut = tuple(
        dataclasses.replace(c, is_cut=True, cached=3, read=c.read - 3)
        for c in ladder.completions
    )
    ladder = dataclasses.replace(ladder, completions=cut)
    (back,) = schema.LADDERS.from_table(schema.LADDERS.to_table([ladder]))
    self.assertEqual(back.completions, cut)
    # The column as it was written then.
    old = pa.struct(
        [x for x in columns.COMPLETION if x.name not in ('cached', 'is_cut')]
    )
    fields = [
        (name, pa.list_(old)) if name == 'completions' else (name, kind)
        for name, kind in schema.LADDERS.fields
    ]
    with mock.patch.multiple(columns, COMPLETION=old):
      before = dataclasses.replace(schema.LADDERS, fields=fields)
      table = before.to_table([ladder])
    (back,) = schema.LADDERS.from_table(table)
    self.assertEqual(
        back.completions,
        tuple(dataclasses.replace(c, is_cut=None, cached=0) for c in cut),
    )

  def test_edge_cases_come_back(self):
    nothing = np.zeros(0, np.float32)
    usage = types.Usage(0, 3, 2, 1, 0.1 + 0.2, 4)
    steps = (
        # No top log-probabilities (k = 0), and no hidden state.
        types.Step(
            'a', (7,), np.float32([-1.5]), np.zeros((1, 0), np.float32),
            False, usage, None,
        ),
        # Different k in one column; a hidden state next to steps without one.
        types.Step(
            'b', (1, 2), np.float32([-1, -2]),
            np.float32([[-1, -2, -3], [-4, -5, -6]]), False, usage,
            np.float32([1, 2]),
        ),
        # No token at all.
        types.Step('', (), nothing, np.zeros((0, 0), np.float32), True, usage),
    )  # fmt: skip
    problem = types.Problem('é', 'a "q"\n', '½', '', {'x': [1, {'y': None}]})
    ladders = [
        types.Ladder(problem, steps, True, ()),
        types.Ladder(problem, (), False, ()),
        types.Ladder(problem, steps[:1], False, ()),
    ]
    back = schema.LADDERS.from_table(schema.LADDERS.to_table(ladders))
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, ladders)),
    )

  def test_an_empty_table(self):
    self.assertEmpty(schema.LADDERS.from_table(schema.LADDERS.to_table([])))

  def test_many_chunks_are_read_as_one(self):
    ladders = scripted_pair.make_ladders(4)
    tables = [schema.LADDERS.to_table([ladder]) for ladder in ladders]
    back = schema.LADDERS.from_table(pa.concat_tables(tables))
    self.assertEqual(
        list(map(scripted_pair.plain, back)),
        list(map(scripted_pair.plain, ladders)),
    )

  def test_the_table_has_the_hash_of_the_question(self):
    (ladder,) = scripted_pair.make_ladders(1)
    table = schema.LADDERS.to_table([ladder])
    self.assertEqual(
        table['question_hash'].to_pylist(),
        [splits.question_hash(ladder.problem.question)],
    )

  def test_another_version_raises_an_error(self):
    table = schema.LADDERS.to_table(scripted_pair.make_ladders(1))
    other = table.replace_schema_metadata({'routing.schema_version': '99'})
    with self.assertRaisesRegex(ValueError, 'version 99.* reads version 3'):
      schema.LADDERS.from_table(other)

  def test_a_missing_version_raises_an_error(self):
    table = schema.LADDERS.to_table(
        scripted_pair.make_ladders(1)
    ).replace_schema_metadata(None)
    with self.assertRaisesRegex(ValueError, 'version None'):
      schema.LADDERS.from_table(table)

  @parameterized.parameters(
      dict(log_probs=np.zeros(9, np.float32)),
      dict(top_log_probs=np.zeros((9, 2), np.float32)),
      dict(top_log_probs=np.zeros(5, np.float32)),
  )
  def test_log_probs_must_match_the_tokens(self, **change):
    (ladder,) = scripted_pair.make_ladders(1)
    step = dataclasses.replace(ladder.steps[0], **change)
    broken = dataclasses.replace(ladder, steps=(step,))
    with self.assertRaisesRegex(ValueError, 'has 4 tokens'):
      schema.LADDERS.to_table([broken])


if __name__ == '__main__':
  absltest.main()
