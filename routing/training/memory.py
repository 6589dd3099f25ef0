"""What becomes of memory between two steps."""

import ctypes

# Of glibc's `malloc.h`.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed() -> None:
  """Lets this process keep what it frees; without glibc it does nothing.

  XLA's scratch of a step is one block. glibc would return a block of over 32
  MiB to the system, and the next step would get it back page by page, each of
  them zeroed: an eighth of a step of the default size on a CPU.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt:
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _LARGEST)
