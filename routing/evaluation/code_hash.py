"""Identifies the code of a method, so that what is kept of it can be checked.

Kept of a method are its entries in a comparison and its live answers.
"""

import functools
import hashlib
import pathlib
import sys

from routing.routers import router


def of_method(method: router.Method) -> str:
  """Returns a hash of the source of a method: its module and those beside it.

  What is kept of a method is not used once this code has changed. The routers
  of this package share a folder, so a change of one counts for all of them.
  """
  fit = method.fit
  # A partial function has the module of `functools`, not that of its function.
  while isinstance(fit, functools.partial):
    fit = fit.func
  module = sys.modules[fit.__module__]
  path = pathlib.Path(module.__file__)
  files = [path]
  # Beside a module of no package lies whatever else is installed.
  if module.__package__:
    files = sorted(path.parent.glob('*.py'))
  content = b''.join(x.read_bytes() for x in files)
  return hashlib.sha256(content).hexdigest()
