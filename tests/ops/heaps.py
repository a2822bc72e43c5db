"""Allocates memory in eight threads at once and prints malloc's statistics.

``python heaps.py limited`` limits the number of heaps first.
"""

from __future__ import annotations

import ctypes
import sys
import threading

from formrelay.middleware.process_tuning import limit_malloc_arenas

if sys.argv[1:] == ["limited"]:
    limit_malloc_arenas()
barrier = threading.Barrier(8)
kept: list[bytes] = []


def allocate() -> None:
    barrier.wait()
    kept.extend(bytes(1000) for _ in range(1000))
    barrier.wait()


threads = [threading.Thread(target=allocate) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
