"""What the doctor says about workers."""

from __future__ import annotations

from formrelay import __version__
from formrelay.ops.doctor.queues import broken_workers
from formrelay.ops.doctor.reports import check_versions_of
from formrelay.state.worker_reports import WorkerReport


def test_live_workers_of_one_version_are_fine() -> None:
    reports = [WorkerReport(f"host:{n}", __version__) for n in range(3)]
    assert list(check_versions_of([*reports, WorkerReport("b:2", "x", age=125)])) == []
    assert list(check_versions_of([])) == []


def test_different_versions_are_named_with_their_workers() -> None:
    reports = [WorkerReport(f"a:{number}", __version__) for number in range(7)]
    (found,) = check_versions_of([*reports, WorkerReport("b:1", "9.9")])
    assert found.state == "weak"
    assert f"{__version__}: a:0, a:1, a:2, a:3, a:4 and 2 more; 9.9: b:1" in found.says


def test_a_command_of_another_version_is_named() -> None:
    (found,) = check_versions_of([WorkerReport("a:1", "9.9")])
    assert found.state == "weak"
    assert "version 9.9" in found.says
    assert __version__ in found.says


def worker(name: str, state: str) -> dict[str, object]:
    return {"id": name, "name": name, "alive": state == "ok", "state": state, "why": "because"}


def test_workers_that_do_not_work_are_named_with_what_to_do() -> None:
    states = ("ok", "silent", "died", "no_broker", "hangs")
    found = list(broken_workers([worker(f"{state}:1", state) for state in states]))
    assert [(each.state, each.says.partition(";")[0]) for each in found] == [
        ("bad", "hangs:1 hangs: because"),
        ("bad", "no_broker:1 cannot use the broker: because"),
        ("weak", "died:1 died: because"),
        ("weak", "silent:1 is silent: because"),
    ]


def test_few_of_many_workers_are_named() -> None:
    found = list(broken_workers([worker(f"a:{number}", "died") for number in range(7)]))
    assert len(found) == 6
    assert found[-1].says.startswith("2 more in the state died")
