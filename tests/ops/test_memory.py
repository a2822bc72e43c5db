"""The threads of a worker share two heaps of malloc."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = str(Path(__file__).with_name("heaps.py"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's malloc")
@pytest.mark.parametrize(("arguments", "is_limited"), [(["limited"], True), ([], False)])
def test_threads_share_two_heaps(arguments: list[str], is_limited: bool) -> None:
    command = [sys.executable, PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert (done.stdout.count("<heap nr=") <= 2) is is_limited
