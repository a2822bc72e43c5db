"""A worker's threads share few heaps of malloc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from formrelay.ops.boot import limit_malloc_arenas

{call}
barrier = threading.Barrier(8)
kept = []

def allocate():
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
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
@pytest.mark.parametrize(("call", "is_limited"), [("limit_malloc_arenas()", True), ("", False)])
def test_threads_share_two_heaps(call: str, is_limited: bool) -> None:
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert (done.stdout.count("<heap nr=") <= 2) is is_limited
