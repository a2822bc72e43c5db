"""What the doctor says about workers."""

from __future__ import annotations

import subprocess

from formrelay import __version__
from formrelay.core.failure import worker_name
from formrelay.ops.doctor.reports import findings_of, silent_workers
from formrelay.state.worker_reports import WorkerReport


def test_live_workers_of_one_version_are_fine() -> None:
    reports = [WorkerReport(f"host:{n}", __version__) for n in range(3)]
    assert list(findings_of([*reports, WorkerReport("b:2", "x", age=125)])) == []
    assert list(findings_of([])) == []


def test_different_versions_are_named_with_their_workers() -> None:
    reports = [WorkerReport(f"a:{number}", __version__) for number in range(7)]
    (found,) = findings_of([*reports, WorkerReport("b:1", "9.9")])
    assert found.state == "weak"
    assert f"{__version__}: a:0, a:1, a:2, a:3, a:4 and 2 more; 9.9: b:1" in found.says


def test_a_command_of_another_version_is_named() -> None:
    (found,) = findings_of([WorkerReport("a:1", "9.9")])
    assert found.state == "weak"
    assert "version 9.9" in found.says
    assert __version__ in found.says


def test_workers_that_stopped_reporting_are_named_up_to_a_number() -> None:
    reports = [WorkerReport(f"a:{number}", "1", age=125 * (number > 0)) for number in range(8)]
    found = list(silent_workers(reports))
    assert len(found) == 6
    assert found[0].says.startswith("a:1 sent its last report 2m ago")
    assert found[-1].says.startswith("2 more")


def test_a_hanging_worker_and_one_without_the_broker_are_bad() -> None:
    hanging = WorkerReport("a:1", __version__, stalled=65)
    cut_off = WorkerReport("a:2", __version__, problem="expected RabbitMQ to answer, got nothing")
    first, second = findings_of([hanging, cut_off])
    assert (first.state, second.state) == ("bad", "bad")
    assert "a consumer of a:1 has not moved for 1m" in first.says
    assert "a:2 cannot use the broker: expected RabbitMQ to answer" in second.says


def test_a_silent_worker_of_this_machine_is_looked_up() -> None:
    host, _, pid = worker_name().partition(":")
    with subprocess.Popen(["true"]) as ended:
        pass
    silent = [
        WorkerReport(name, __version__, age=125)
        for name in (f"{host}:{pid}", f"{host}:{ended.pid}", "elsewhere:1")
    ]
    here, gone, elsewhere = silent_workers(silent)
    assert "its process still runs" in here.says
    assert "its process has ended" in gone.says
    assert "it was killed or hangs" in elsewhere.says
