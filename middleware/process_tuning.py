"""Settings of Python and of the C library that suit a worker process."""

from __future__ import annotations

import ctypes
import gc
import linecache
import multiprocessing
import re
import sys
import time
from contextlib import suppress
from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware

from ..core.periodic import Periodic

#: Time between two collections.
_COLLECT_EVERY = timedelta(minutes=1)
#: Maximum share of the time that full collections take.
_FULL_SHARE = 0.001
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


class ProcessTuning(Middleware):
    """Tunes each process that Dramatiq's command line starts, and no other program.

    Collects garbage once a minute: the thresholds of :func:`tune_garbage_collector` count objects.
    With a hundred jobs a second they are reached after ten minutes, in which 30 MB of garbage
    gather: drivers and libraries make cycles. Young objects are few, so collecting them takes
    milliseconds. A full collection also finds older cycles. It is slow if the user's code keeps
    many objects, so it is postponed until full collections take at most 0.1 % of the time.
    """

    def __init__(self) -> None:
        #: When the next full collection is due, monotonic seconds.
        self._full_at = 0.0
        self._collecting = Periodic("garbage", _COLLECT_EVERY, self.collect)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if is_worker_process():
            limit_malloc_arenas()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if is_worker_process():
            tune_garbage_collector()
            self._collecting.start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._collecting.stop()

    def collect(self) -> None:
        """Collect all objects if a full collection is due, otherwise the young objects.

        Then clear Python's caches of source files, a megabyte after a few minutes of failing jobs,
        and of regular expressions, which has one for each boundary of an e-mail. Patterns in use
        are compiled again. Then give free memory back to the system.
        """
        began = time.monotonic()
        if began < self._full_at:
            gc.collect(1)
        else:
            gc.collect()
            self._full_at = began + (time.monotonic() - began) / _FULL_SHARE
        linecache.clearcache()
        re.purge()
        trim_malloc()


def is_worker_process() -> bool:
    """Whether Dramatiq's command line started this process to run a worker."""
    return multiprocessing.parent_process() is not None and "dramatiq.cli" in sys.modules


def limit_malloc_arenas() -> None:
    """Limit glibc's malloc to two arenas for all threads; the default is eight for each core.

    Freed memory stays in the arena that it came from. One thread allocates a batch of 10,000
    events and another frees it, so each arena grows to the size of the largest batch: 45 MB more
    for 8 threads. Under the GIL few threads allocate at once, so sharing costs no time. Does
    nothing without glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def trim_malloc() -> None:
    """Give the free pages of glibc's malloc back to the system; takes about a millisecond.

    Otherwise the memory of a worker grows for hours, because small objects that stay keep it from
    giving back the pages before them. Does nothing without glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
