"""The browser in which tests open pages."""

import importlib.util
import pathlib
import shutil
from typing import Any

from absl.testing import absltest

_NAMES = ('chromium', 'chromium-browser')


def launch(case: type[absltest.TestCase]) -> Any:
  """Returns a headless Chromium, which is closed after the last test of `case`.

  It is the one of the machine, or what `playwright install chromium` has put in
  place. Without one the tests are skipped, and the reason is said.
  """
  skipped = absltest.SkipTest(
      'Pages are tested where Chromium (e.g. apt-get install chromium) and the '
      'extra `browser` are installed.'
  )
  if importlib.util.find_spec('playwright') is None:
    raise skipped
  from playwright import sync_api

  started = case.enterClassContext(sync_api.sync_playwright())
  found = next(filter(None, map(shutil.which, _NAMES)), None)
  path = pathlib.Path(found or started.chromium.executable_path)
  if not path.exists():
    raise skipped
  browser = started.chromium.launch(executable_path=path)
  case.addClassCleanup(browser.close)
  return browser
