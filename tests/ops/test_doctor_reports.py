"""What the doctor says about workers."""

from __future__ import annotations

from formrelay import __version__
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
