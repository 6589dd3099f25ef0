"""The allocator of the process: keeps memory between two training steps."""

import ctypes

# Parameters of `mallopt` in glibc's `malloc.h`.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed() -> None:
  """Tells glibc to keep freed memory for reuse; does nothing without glibc.

  XLA allocates the scratch space of a step as one block. By default glibc
  returns a block of over 32 MiB to the system when it is freed. The next step
  then faults it in again page by page, each zeroed: an eighth of the time of a
  step of the default size on a CPU.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt:
    mallopt(_MMAP_MAX, 0)  # Large blocks come from the heap, not from mmap,
    mallopt(_TRIM_THRESHOLD, _LARGEST)  # and the heap is never trimmed.
