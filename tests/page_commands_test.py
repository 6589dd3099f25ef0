"""Every command of a document has a rule, and every rule a command.

`python -m tests.page_commands` runs them.
"""

import pathlib
import re
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from tests import checkout
from tests import page_actions
from tests import page_commands
from tests import page_rules

_PAGE = """Text with `make a B=1` and `a.py`, `make`, and `python -m x
--y`.

```bash
# A comment.
one --a='x # y' \\
  --b   # why
%%bash
$ two
```

```python
three
```

1. In a list:

    ```
    four
    ```
"""


class DocumentsTest(absltest.TestCase):

  def test_every_command_has_a_rule_and_every_rule_a_command(self):
    commands = page_commands.all_commands()
    self.assertGreater(len(commands), 100)
    _, faults = page_commands.assigned(commands, page_rules.RULES)
    self.assertEmpty(faults, '\n'.join(faults))

  def test_what_is_not_run_is_run_by_something_that_exists(self):
    stages = (checkout.ROOT / '.ci/run').read_text(encoding='utf-8')
    for rule in page_rules.RULES:
      if isinstance(rule.does, page_actions.Leave):
        for path in re.findall(r'[\w.*]+/[\w.*/]+', rule.does.elsewhere):
          self.assertNotEmpty(list(checkout.ROOT.glob(path)), path)
        for name in re.findall(r'\bstage (\w+)', rule.does.elsewhere):
          self.assertRegex(stages, f'\n(stage|aside) {name} ')


class RulesTest(parameterized.TestCase):

  def test_commands_of(self):
    found = page_commands.commands_of('a.md', _PAGE)
    self.assertEqual(
        [(command.line, command.text) for command in found],
        [
            (1, 'make a B=1'),
            (1, 'python -m x --y'),
            (6, "one --a='x # y' --b"),
            (9, 'two'),
            (19, 'four'),
        ],
    )

  def test_assigned(self):
    command = page_commands.Command('a.md', 3, 'make a')
    rules = [
        page_actions.Rule(pattern, page_actions.Run())
        for pattern in ('make a', 'make .', 'make')
    ]
    found, faults = page_commands.assigned([command], rules[:1])
    self.assertEqual((found, faults), ({rules[0]: [command]}, []))
    # No rule, several rules, and a rule too many.
    for given, said in (
        (rules[2:], 'a.md:3: make a\n  has no rule'),
        (rules[:2], "'make a', 'make .'"),
        (rules[::2], "'make' covers no command"),
    ):
      _, faults = page_commands.assigned([command], given)
      self.assertIn(said, '\n'.join(faults))

  def test_small_wants_what_it_changes(self):
    command = page_commands.Command('a.md', 3, 'python -m a --b=2')
    does = page_actions.Run(changes=(('b=2', 'b=1'),), more=('--c',))
    self.assertEqual(
        page_commands.small(command, does, mock.Mock()),
        'python -m a --b=1 --c',
    )
    with self.assertRaisesRegex(ValueError, "a.md:3.*\n.*lacks 'b=3'"):
      does = page_actions.Run(changes=(('b=3', 'b=1'),))
      page_commands.small(command, does, mock.Mock())

  @parameterized.parameters(
      (page_actions.Run(), 0, ''),
      (page_actions.Run(says='d.ne', leaves=('a',)), 0, ''),
      (page_actions.Run(), 1, 'ended with code 1:\ndone'),
      (page_actions.Run(leaves=('b',)), 0, 'left no b'),
      (page_actions.Run(says='over'), 0, "did not print 'over'"),
  )
  def test_fault(self, does, code, expected):
    with tempfile.TemporaryDirectory() as folder:
      home = mock.Mock(root=pathlib.Path(folder))
      (home.root / 'a').touch()
      found = page_commands.fault(does, home, code, 'done')
    self.assertStartsWith(found, expected)
    self.assertEqual(bool(found), bool(expected))


if __name__ == '__main__':
  absltest.main()
