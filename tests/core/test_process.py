"""Whether a process still runs is known on its machine alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from formrelay.core.process import Fate, fate_of, parent_of, process_key
from tests.support.waiting import wait_until


def test_a_process_runs_is_stopped_and_ends() -> None:
    assert fate_of(process_key()) is Fate.RUNS
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        key = process_key(process.pid)
        assert fate_of(key) is Fate.RUNS
        assert parent_of(process.pid) == os.getpid()
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: fate_of(key) is Fate.STOPPED)
        process.kill()
        wait_until(lambda: fate_of(key) is Fate.ENDED)  # also before its parent has asked for it
    assert fate_of(key) is Fate.ENDED
    assert process_key(process.pid) == ""
    assert parent_of(process.pid) is None


def test_a_later_process_with_the_same_id_is_another_process() -> None:
    place, _, started = process_key().rpartition("/")
    assert fate_of(f"{place}/{int(started) - 1}") is Fate.ENDED


def test_of_other_machines_and_containers_nothing_is_known() -> None:
    boot, container, pid, started = process_key().split("/")
    for key in (
        f"{'0' * len(boot)}/{container}/{pid}/{started}",
        f"{boot}/1/{pid}/{started}",
        "",
        "nonsense",
        "a/b/c/d",
    ):
        assert fate_of(key) is Fate.UNKNOWN
