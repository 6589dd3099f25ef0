"""Starts llama.cpp's own server, from the package `xllamacpp`."""

from __future__ import annotations

from collections.abc import Sequence
import os
import tempfile
from typing import Any

_FILE = 'shared'  # Name of the file with what was computed for shared tokens.


class Server:
  """A server of llama.cpp on a free port of this machine, until it is closed.

  Args:
    model: path of the GGUF file.
    max_length: maximum number of tokens of a slot.
    num_slots: number of answers that are computed at the same time.
    num_aside_slots: number of further slots, of which none is filled in advance
      (see `llama_cpp_slots`).
    num_threads: threads that compute; 0 = one per core.
    num_gpu_layers: layers that an accelerator computes; -1 = all.

  Raises:
    ValueError: if the file is not in the GGUF format.
    FileNotFoundError: if it does not exist.
  """

  def __init__(
      self,
      model: str,
      *,
      max_length: int,
      num_slots: int,
      num_aside_slots: int,
      num_threads: int,
      num_gpu_layers: int,
  ):
    with open(model, 'rb') as file:
      if file.read(4) != b'GGUF':
        raise ValueError(
            f'{model} is not a GGUF file; allowed: the format of llama.cpp.'
        )
    # The import is local, because other runs do not need the package.
    import xllamacpp

    self._folder = tempfile.TemporaryDirectory()
    self._num_slots = num_slots
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames, params.port = ['127.0.0.1'], 0
    params.n_parallel = num_slots + num_aside_slots
    params.n_ctx = max_length * params.n_parallel
    params.kv_unified = False  # Each slot has its own part of the context.
    params.n_gpu_layers = num_gpu_layers
    params.cache_ram_mib = 0  # No second cache, of sequences that left a slot.
    params.slot_save_path = self._folder.name + os.sep
    params.verbosity = -1
    for threads in (params.cpuparams, params.cpuparams_batch):
      threads.n_threads = num_threads or os.cpu_count() or 1
      # Threads that wait by spinning take the cores from the other model.
      threads.poll = 0
    self._server = xllamacpp.Server(params)

  @property
  def address(self) -> str:
    """The server's address, without /v1."""
    return self._server.listening_address

  async def fill_slots(self, client: Any, ids: Sequence[int]) -> None:
    """Has tokens read once, and copies what was computed into every slot.

    Slots would otherwise each read them at their first request. Of 16 slots and
    800 tokens of solved examples, this takes minutes on two cores.

    Args:
      client: an `httpx.AsyncClient` of this server; no other request may be
        under way.
      ids: the tokens with which all prompts begin.

    Raises:
      httpx.HTTPError: if the server does not answer, or refuses.
    """
    first = dict(prompt=list(ids), n_predict=0, cache_prompt=True, id_slot=0)
    requests = [('/completion', first), ('/slots/0?action=save', {})]
    requests += [
        (f'/slots/{i}?action=restore', {}) for i in range(1, self._num_slots)
    ]
    for path, body in requests:
      response = await client.post(path, json=dict(body, filename=_FILE))
      response.raise_for_status()

  def close(self) -> None:
    """Ends the server."""
    self._server = None  # Its destructor ends it.
    self._folder.cleanup()
