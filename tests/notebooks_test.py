"""Each notebook has a page in the documents, made from its present cells."""

import json
import pathlib

from absl.testing import absltest
import nbformat

from experiments.colab import pages
from tests import checkout
from tests import documents_test


def _notebooks():
  paths = checkout.files('experiments/colab/*.ipynb')
  return {x.stem: json.loads(x.read_text(encoding='utf-8')) for x in paths}


class PagesTest(absltest.TestCase):

  def test_each_notebook_has_a_page_of_its_present_cells(self):
    notebooks = _notebooks()
    self.assertContainsSubset(
        {'quickstart', 'real_pair', 'your_own_pair', 'inspect_shards'},
        notebooks,
    )
    for name, notebook in notebooks.items():
      page = (pages.PAGES / f'{name}.md').read_text(encoding='utf-8')
      first = page.split('\n', 1)[0]
      self.assertEqual(
          first, pages.mark(notebook), f'{name}: run `make pages`.'
      )
      for cell in notebook['cells']:
        self.assertIn(''.join(cell['source']).split('\n')[0], page, name)
      self.assertNotIn('Traceback', page, name)
      self.assertNotIn('\x1b', page, name)

  def test_no_page_is_without_a_notebook(self):
    found = {x.stem for x in checkout.files('docs/notebooks/*.md')}
    self.assertEqual(found, set(_notebooks()))

  def test_pictures_are_there_and_used(self):
    for path in checkout.files('docs/notebooks/*_files/*'):
      name = path.parent.name.removesuffix('_files')
      page = (pages.PAGES / f'{name}.md').read_text(encoding='utf-8')
      self.assertIn(f'{path.parent.name}/{path.name}', page)

  def test_one_line_installs_and_nothing_depends_on_the_folder(self):
    for name, notebook in _notebooks().items():
      cells = [
          ''.join(cell['source'])
          for cell in notebook['cells']
          if cell['cell_type'] == 'code'
      ]
      # `.ci/package.py` puts the built wheel into the first of these lines.
      self.assertRegex(cells[0], r"(?m)^PACKAGE = '.*'$", name)
      lines = [x for x in cells[0].splitlines() if not x.startswith('#')]
      self.assertLen(lines, 2, name)
      self.assertEqual(lines[1], '%pip install --quiet "$PACKAGE"', name)
      for cell in cells:
        self.assertNotRegex(cell, r'%cd|%pip .*-(e|-editable)\b|\.\./', name)

  def test_notebooks_are_well_formed(self):
    for name, notebook in _notebooks().items():
      nbformat.validate(nbformat.from_dict(notebook))
      self.assertEmpty(documents_test.notebook_faults(notebook), name)


class FingerprintTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.cell = {'cell_type': 'code', 'source': ['x = 1\n', 'y = 2']}

  def test_depends_on_what_cells_do(self):
    found = pages.fingerprint({'cells': [self.cell]})
    other = self.cell | {'source': ['x = 1\n', 'y = 3']}
    text = self.cell | {'cell_type': 'markdown'}
    for cells in ([other], [text], [self.cell] * 2, []):
      self.assertNotEqual(pages.fingerprint({'cells': cells}), found)

  def test_does_not_depend_on_outputs_or_line_breaks(self):
    found = pages.fingerprint({'cells': [self.cell]})
    run = self.cell | {'outputs': [1], 'execution_count': 3, 'id': 'a'}
    joined = self.cell | {'source': 'x = 1\ny = 2'}
    for cell in (run, joined):
      self.assertEqual(pages.fingerprint({'cells': [cell]}), found)


class ExecuteTest(absltest.TestCase):

  def test_outputs_are_added_and_the_install_line_is_not_run(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    source = (
        '%pip install nothing-of-this-name\nimport sys\nprint("a")\n'
        'print("log", file=sys.stderr, flush=True)\nprint("\\x1b[1mb\\x1b[0m")'
    )
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell('# Title'),
            nbformat.v4.new_code_cell(source),
        ]
    )
    made = pages.execute(notebook, folder)
    self.assertEqual(made.cells[1].source, source)
    self.assertEqual([x.text for x in made.cells[1].outputs], ['a\nb\n'])
    self.assertEmpty(notebook.cells[1].outputs)

  def test_a_colour_may_be_cut_by_the_log(self):
    stream = lambda name, text: nbformat.v4.new_output(
        'stream', name=name, text=text
    )
    cut = [
        stream('stdout', 'a\x1b[1'),
        stream('stderr', 'log'),
        stream('stdout', ';36mb\x1b[0m'),
    ]
    self.assertEqual([x.text for x in pages._for_readers(cut)], ['ab'])


if __name__ == '__main__':
  absltest.main()
