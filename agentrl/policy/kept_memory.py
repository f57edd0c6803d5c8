"""Memory that libraries keep for later: products that oneDNN has prepared, and blocks that were freed. Bounds both.

A product in bfloat16 on a CPU is prepared for its shape, and what was prepared is kept. Batches of an agent's episodes
have a new shape nearly every time, so a process would grow with every update. glibc keeps freed blocks as well.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable

_PREPARED = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": ("DNNL_PRIMITIVE_CACHE_CAPACITY",),
    "LRU_CACHE_CAPACITY": (),
}
"""Environment variables of the two caches, that of oneDNN and that of PyTorch in front of it, with other names."""

_MOST_PREPARED = 128
"""Products that stay prepared; the libraries' own limit is 1,024. One shape of a batch needs about ten."""

_EVERY_S = 5.0
"""Least time between two returns of freed memory: each makes the next allocations slower."""


def limit_prepared_products() -> None:
    """Keep at most 128 prepared products of each cache, unless the environment says how many.

    Call it before the first product: the libraries read the variables once, then.
    """
    for name, others in _PREPARED.items():
        if not any(other in os.environ for other in (name, *others)):
            os.environ[name] = str(_MOST_PREPARED)


def give_back_freed() -> bool:
    """Return freed memory to the system. Returns: whether the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
    return trim is not None


class FreedMemory:
    """Returns freed memory to the system, where the C library can, and not too often.

    Args:
        clock: seconds that pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next_s = clock, clock()

    def give_back(self) -> bool:
        """Return what is free now. Returns: whether that was done; False where it was done just before."""
        if self._clock() < self._next_s or not give_back_freed():
            return False
        self._next_s = self._clock() + _EVERY_S
        return True
