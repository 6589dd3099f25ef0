"""Tests that live answers are kept one by one, and failures end no run."""

import dataclasses
import functools
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from routing import costs
from routing import protocols
from routing.engines import engine as engine_lib
from routing.grading import equivalence
from routing.outcomes import live
from routing.outcomes import live_answers
from routing.outcomes import points as points_lib
from routing.rollout import step_requests
from routing.routers import families
from routing.shards import lock as lock_lib
from tests import scripted_pair

_PROBLEMS = scripted_pair.make_problems(10)
_LARGE = 1  # Route of the largest model.


class LiveAnswersTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path) / 'answers'
    self.asked = []  # Indices of the problems that were asked, in order.

  def _answering(self, fail=None, **fields):
    """Settings under which `fail` may raise an error for a problem's index."""

    def make_engines():
      engines = scripted_pair.make_engines(2)
      for engine in engines:
        engine.reply = functools.partial(self._reply, engine.reply, fail)
      return engines

    return live_answers.Answering(
        make_engines=make_engines,
        protocol=protocols.Protocol('escalate', 'peek'),
        accounting=costs.Accounting(scripted_pair.SPECS[:2], reference=1e-4),
        sampling=step_requests.Sampling(),
        grade=equivalence.exact,
        concurrency=2,
        **fields,
    )

  async def _reply(self, reply, fail, session, request):
    index = int(session.question.split(':')[0]) - 10
    if index not in self.asked:
      self.asked.append(index)
    if fail is not None:
      fail(index)
    return await reply(session, request)

  def _answer(self, fail=None, problems=_PROBLEMS, kappas=(1,), **fields):
    """Returns the outcomes of each threshold; notes what was asked."""
    self.asked.clear()
    family = families.FixedStep(_LARGE)
    asked = [
        live_answers.Asked(family.at(x), family.fingerprint, x) for x in kappas
    ]
    return live_answers.answer_under(
        self._answering(fail, **fields), problems, asked, self.folder
    )

  def _raise(self, error, *indices):
    def fail(index):
      if index in indices:
        raise error

    return fail

  def test_a_crash_loses_no_finished_answer(self):
    want = self._answer(kappas=(1, 2))
    self.folder = self.folder.with_name('crashed')
    with self.assertRaises(KeyError):
      self._answer(self._raise(KeyError('a bug'), 6), kappas=(1, 2))
    self.assertEqual(self._answer(kappas=(1, 2)), want)
    # The first six were on the disk; the second threshold asks all again.
    self.assertEqual(sorted(self.asked), list(range(10)))
    self.assertEqual(self._answer(kappas=(1,)), want[:1])
    self.assertEmpty(self.asked)

  def test_only_what_is_missing_is_asked(self):
    with self.assertRaises(KeyError):
      self._answer(self._raise(KeyError('a bug'), 6))
    self._answer()
    self.assertContainsSubset({6}, self.asked)
    self.assertNoCommonElements({0, 1, 2, 3, 4}, self.asked)
    # More problems under the same settings: the first ones are known.
    more = scripted_pair.make_problems(13)
    (found,) = self._answer(problems=more)
    self.assertEqual(self.asked, [10, 11, 12])
    self.assertLen(found, 13)
    # A problem whose text has changed is another one.
    other = dataclasses.replace(more[0], question='10:2\n', answer='12')
    self._answer(problems=[other, *more[1:]])
    self.assertEqual(self.asked, [0])

  def test_a_torn_record_is_asked_again(self):
    (want,) = self._answer()
    (path,) = self.folder.glob('*.log')
    path.write_bytes(path.read_bytes()[:-1])
    (found,) = self._answer()
    self.assertEqual(found, want)
    self.assertLen(self.asked, 1)

  def test_one_refusal_is_reported_and_the_rest_is_answered(self):
    with self.assertLogs(level='WARNING') as logs:
      (found,) = self._answer(self._raise(engine_lib.Refused('too long'), 4))
    self.assertRegex(
        ' '.join(logs.output), 'Left out: problem count/4 was refused.*too long'
    )
    self.assertEqual(found[4], live_answers.Refused('too long'))
    self.assertLen([x for x in found if isinstance(x, live_answers.Answer)], 9)
    (again,) = self._answer()  # It is not asked again.
    self.assertEqual(again, found)
    self.assertEmpty(self.asked)

  def test_what_may_pass_is_asked_by_the_next_run(self):
    with self.assertRaisesRegex(
        engine_lib.Stop,
        '2 of 10 live answers failed for a reason that may '
        'pass, the last with: busy .* run the same command again',
    ):
      self._answer(self._raise(engine_lib.Unavailable('busy'), 3, 7))
    self._answer()
    self.assertEqual(sorted(self.asked), [3, 7])

  @parameterized.parameters(engine_lib.Refused, engine_lib.Unavailable)
  def test_many_failures_in_a_row_stop_it_and_are_not_kept(self, error):
    with self.assertRaisesRegex(
        engine_lib.Stop, '4 live answers failed in a row, the last with: no'
    ):
      self._answer(self._raise(error('no'), *range(3, 10)), max_failures=4)
    self._answer()
    self.assertContainsSubset(range(3, 10), self.asked)
    self.assertNoCommonElements({0, 1}, self.asked)

  def test_two_processes_do_not_answer_into_one_folder(self):
    self.folder.mkdir()
    lock = lock_lib.Lock(self.folder)
    with self.assertRaisesRegex(ValueError, 'being written by'):
      self._answer()
    lock.release()
    self._answer()
    self.assertLen(list(self.folder.iterdir()), 1)

  def _live(self, fail):
    return live.Live(
        answering=self._answering(fail),
        problems=_PROBLEMS,
        large_correct=np.ones(10),
        large_cost={x: np.full(10, 2e-4) for x in costs.COST_METRICS},
        folder=self.folder,
    )

  def test_a_refused_problem_counts_as_lost_in_a_source(self):
    family, kappas = families.FixedStep(_LARGE), np.array([1.0, np.inf])
    want = self._live(None).evaluate(family, kappas, 'price')
    self.folder = self.folder.with_name('refused')
    refuse = self._raise(engine_lib.Refused('no'), 4)
    got = self._live(refuse).evaluate(family, kappas, 'price')
    for field in points_lib.NAMES:
      value, expected = getattr(got, field), getattr(want, field).copy()
      # It is wrong where the largest model is right, and costs as much.
      expected[:, 4] = {'correct': 0, 'cost': 1, 'loss': 1, 'gain': 0}[field]
      np.testing.assert_allclose(value, expected, rtol=1e-12)

  def test_a_comparison_leaves_a_refused_problem_out(self):
    (found,) = self._answer(self._raise(engine_lib.Refused('no'), 4))
    answering, large = self._answering(), np.full(10, 2e-4)
    correct = np.array(
        [[getattr(x, 'is_correct', False) for x in found]], np.float64
    )
    cost = (
        np.array(
            [[x.cost['price'] if i != 4 else 9.0 for i, x in enumerate(found)]]
        )
        / large
    )
    predicted = points_lib.Points(correct, cost, 0 * cost, 0 * cost)
    compared = live.compare(found, large, predicted, answering)
    self.assertEqual(
        (compared['num_problems'], compared['num_left_out']), (9, 1)
    )
    self.assertEqual(compared['num_agreeing'], 9)
    self.assertAlmostEqual(compared['accuracy'], correct[0].sum() / 9)
    self.assertAlmostEqual(compared['predicted_cost'], compared['cost'])


if __name__ == '__main__':
  absltest.main()
