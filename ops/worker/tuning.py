"""Settings of Python and of the C library that suit a worker process."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

#: Parameter of glibc's ``mallopt``: maximum number of arenas.
_M_ARENA_MAX = -8


def tune_garbage_collector() -> None:
    """Run the garbage collector rarely, and exclude the objects that exist at start.

    With Python's defaults, a collector that scans all modules and schemas again and again takes
    a tenth of the CPU time of a webhook, although messages are hardly ever part of a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(300_000, 20, 50)


def limit_malloc_arenas() -> None:
    """Limit glibc's malloc to two arenas for all threads; the default is eight for each core.

    Freed memory stays in the arena that it came from. One thread allocates a batch of 10,000
    events and another frees it, so each arena grows to the size of the largest batch: 45 MB more
    for 8 threads. Under the GIL few threads allocate at once, so sharing costs no time. Does
    nothing without glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
