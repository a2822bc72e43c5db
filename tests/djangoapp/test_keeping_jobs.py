"""``FORMRELAY_KEEP_JOBS``: tests of a project send nothing."""

from __future__ import annotations

from pathlib import Path

from tests.djangoapp.host import Host

KEPT = ["save_submission", "write_note", "save_submission"]


def test_a_transaction_test_case_sends_nothing_to_the_broker(host: Host) -> None:
    host.settings["FORMRELAY_KEEP_JOBS"] = True
    kept, after, errors, submissions, notes = host.call("keeping.run_tests_and_count")
    assert (kept, after, errors) == (KEPT, [0], [])
    assert (submissions, notes) == (1, 0), "only the job that was sent with the setting off"


def test_the_broker_need_not_exist(tmp_path: Path) -> None:
    nowhere = {"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}, "FORMRELAY_KEEP_JOBS": True}
    host = Host(tmp_path, settings=nowhere).migrate()
    assert host.call("keeping.run_tests")[0] == KEPT


def test_workers_and_deployments_refuse_it(tmp_path: Path) -> None:
    nowhere = {"REDIS_URL": "redis://127.0.0.1:1/0"}
    host = Host(tmp_path, settings={"FORMRELAY": nowhere, "FORMRELAY_KEEP_JOBS": True})
    done = host.manage("formrelay_worker", "--queue", "notes")
    assert done.returncode == 2
    assert "expected FORMRELAY_KEEP_JOBS to be False for a worker" in done.stderr
    assert "formrelay.E008" in host.check("--deploy")[1]
    assert "E008" not in host.check()[1]
    host.settings["FORMRELAY_KEEP_JOBS"] = "yes"
    status, said = host.check()
    assert (status, "formrelay.E001" in said) == (1, True)
