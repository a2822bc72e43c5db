"""Commands for operators, from sending a job to replaying a dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.shell import Shell
from tests.support.waiting import wait_until

WEBHOOK = {"url": "https://127.0.0.1/hook", "body": {"a": "ANSWER"}, "secret": "whsec_c2VjcmV0"}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, LOG_LEVEL="info")


@pytest.fixture
def worker(shell: Shell) -> Iterator[None]:
    with shell.worker():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_job_is_sent_counted_run_and_its_dead_letter_replayed(shell: Shell) -> None:
    # A private address is a permanent error, so the job is dead-lettered at its first attempt.
    sent = shell("send", "deliver_webhook", "-", stdin=json.dumps(WEBHOOK)).stdout.strip()
    (letter,) = wait_until(lambda: shell.json("dlq", "list"), every=0.3)
    assert letter["id"] == sent
    assert letter["failure"]["reason"] == "permanent"
    assert "127.0.0.1" in letter["failure"]["message"]
    shown = json.loads(shell("dlq", "show", sent, "--reveal").stdout)
    assert shown["message"]["kwargs"]["payload"]["body"] == {"a": "ANSWER"}
    assert "ANSWER" not in shell("dlq", "show", sent).stdout
    assert shell("dlq", "replay", "--all", "--dry-run").stdout == "would be replayed: 1\n"
    died = letter["failure"]["at"]
    assert shell("dlq", "replay", sent).stdout == "replayed: 1\n"
    wait_until(
        lambda: [x for x in shell.json("dlq", "list") if x["failure"]["at"] != died], every=0.3
    )
    assert shell("dlq", "delete", sent).stdout == "deleted: 1\n"
    assert shell.json("dlq", "list") == []
    counts = shell.queue("webhooks")
    assert counts.pop("jobs_per_s") >= 0
    assert counts.pop("error_rate") in (None, 1.0)  # the worker adds to the history every 5 s
    assert counts == {
        "queue": "webhooks",
        "waiting": 0,
        "scheduled": 0,
        "in_flight": 0,
        "dead": 0,
        "paused": False,
        "oldest_age_s": None,
        "dead_is_lower_bound": False,
        "dead_age_s": None,
        "no_worker": False,
    }
    log = (shell.folder / "worker.log").read_text()
    attempts = [json.loads(line) for line in log.splitlines() if '"attempt"' in line]
    ours = [line for line in attempts if line.get("actor") == "deliver_webhook"]
    assert [line["jobId"] for line in ours] == [sent, sent]
    assert "ANSWER" not in log
    assert "whsec_" not in log


def test_a_job_can_be_sent_with_a_delay(shell: Shell) -> None:
    event = '{"type": "form.viewed", "formId": "f"}'
    shell("send", "record_events", event, "--delay", "3600")
    assert shell.queue("events")["scheduled"] == 1
    assert shell.queue("events")["waiting"] == 0


def test_sent_jobs_survive_a_stop_of_the_embedded_server(shell: Shell) -> None:
    shell("send", "record_events", '{"type": "form.viewed", "formId": "f"}')
    keeper = shell.folder / ".formrelay" / "valkey" / "valkey.sock"
    # Without users the server stops by itself; its data is in the file.
    wait_until(lambda: not keeper.exists())
    assert shell.queue("events")["waiting"] == 1


def test_config_shows_settings_in_force_and_no_secret(shell: Shell) -> None:
    shell.env["API_TOKEN"] = "a-very-secret-token"
    found = {row["name"]: row for row in shell.json("config")}
    assert found["BROKER"]["value"] == "embedded"
    assert found["BROKER"]["source"] == "environment"
    assert found["API_TOKEN"]["value"] == "***"
    assert "a-very-secret-token" not in shell("config").stdout


def test_migrate_prints_its_plan_applies_it_and_applies_it_once(shell: Shell) -> None:
    planned = shell.json("migrate", "--dry-run")["migrations"]
    assert planned[0] == "0001_events"
    assert shell.json("migrate")["migrations"] == planned
    assert shell.json("migrate")["migrations"] == []


def test_migrate_creates_configured_tables_and_applies_changes(
    shell: Shell,
) -> None:
    shell("migrate")
    shell.env |= {"EVENT_TABLES": "payment.*=payments,a=payments", "EVENT_KEEP_DAYS": "30"}
    wanted = [
        *("0001_events:payments", "0003_events_daily:payments"),
        *("events: keep 30 days", "payments: keep 30 days"),
    ]
    assert shell.json("migrate", "--dry-run")["migrations"] == wanted
    assert shell.json("migrate") == {"dry_run": False, "migrations": wanted, "notes": []}
    del shell.env["EVENT_KEEP_DAYS"]
    planned = ["events: keep for ever", "payments: keep for ever"]
    assert shell.json("migrate", "--dry-run")["migrations"] == planned
    assert "payments: keep for ever" in shell("migrate").stdout
    assert shell.json("migrate")["migrations"] == []
