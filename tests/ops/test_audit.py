"""The audit log as commands write and list it."""

from __future__ import annotations

import getpass
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable, DeadFilter
from formrelay.core.failure import Reason, worker_name
from formrelay.ops import audit
from formrelay.state import make_audit_log
from formrelay.state.audit import AuditEntry, MemoryAuditLog
from tests.state.stores import state_of
from tests.support.command import run

HOST = worker_name().partition(":")[0]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryAuditLog:
    log = MemoryAuditLog()
    monkeypatch.setattr(audit, "open_log", lambda _broker=None: log)
    return log


def test_the_command_line_writes_the_user_of_the_system(log: MemoryAuditLog) -> None:
    audit.record("queues pause", "events")
    audit.record("dlq delete", count=3, operator=audit.Operator("ann", "dashboard"))
    second, first = log.newest().entries
    assert (first.who, first.via) == (f"{getpass.getuser()}@{HOST}", "cli")
    assert (first.action, first.target, first.outcome) == ("queues pause", "events", "done")
    assert (second.who, second.via, second.count) == ("ann", "dashboard", 3)


def test_a_store_that_fails_stops_no_action(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_broker: Any) -> Any:
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(audit, "open_log", fail)
    with caplog.at_level(logging.WARNING, "formrelay.audit"):
        audit.record("queues pause", "events")
    (said,) = caplog.records
    assert said.getMessage() == "the audit log was not written"
    assert said.__dict__["error_message"] == "no answer"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (BrokerUnavailable("no answer"), "failed: no answer"),
        (ValueError("a payload value"), "failed: ValueError"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_an_action_is_written_however_it_ends(
    log: MemoryAuditLog, error: BaseException | None, outcome: str
) -> None:
    def act() -> None:
        with audit.audited("dlq replay", filter="queue webhooks") as found:
            found.count = 5
            if error is not None:
                raise error

    if error is None:
        act()
    else:
        with pytest.raises(type(error)):
            act()
    (entry,) = log.newest().entries
    assert (entry.count, entry.outcome, entry.filter) == (5, outcome, "queue webhooks")


def test_an_action_of_many_steps_is_written_before_it_ends(log: MemoryAuditLog) -> None:
    """A process that is killed leaves this entry."""
    with audit.audited("dlq delete", filter="queue webhooks") as found:
        found.progress(250)
        assert not log.newest().entries  # it may have been all
        for count in (500, 750):
            found.progress(count)
            (entry,) = log.newest().entries
            assert (entry.count, entry.outcome, entry.filter) == (500, "running", "queue webhooks")
    ended = [(each.count, each.outcome) for each in log.newest().entries]
    assert ended == [(750, "done"), (500, "running")]


@pytest.mark.parametrize(
    ("which", "words"),
    [
        (DeadFilter(), "all dead letters"),
        (DeadFilter("webhooks"), "queue webhooks"),
        (
            DeadFilter("q", "a", "E", Reason.PERMANENT, 0.0, 1_769_851_800.0, "f1"),
            "queue q, actor a, error E, reason permanent, since 1970-01-01T00:00:00.000Z, "
            "before 2026-01-31T09:30:00.000Z, form f1",
        ),
        (DeadFilter(error="\x1b[31m"), r"error \x1b[31m"),
    ],
)
def test_a_filter_is_said_in_words(which: DeadFilter, words: str) -> None:
    assert audit.filter_words(which) == words


def test_many_ids_are_counted() -> None:
    assert audit.id_words(["a", "\x1b"]) == r"a, \x1b"
    assert audit.id_words([str(number) for number in range(1005)]) == "0, 1, 2, 3, 4 and 1,000 more"


def test_without_a_shared_store_the_log_is_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    audit._memory_log.cache_clear()
    monkeypatch.setattr(audit, "get_broker", lambda: SimpleNamespace(state=None))
    audit.record("queues pause", "events")
    assert len(audit.open_log().newest().entries) == 1
    audit._memory_log.cache_clear()


@pytest.fixture
def filled(redis_url: str) -> Iterator[str]:
    state = state_of(redis_url)
    log = make_audit_log(state)
    for number in range(3):
        log.add(AuditEntry("ann@host", "cli", "dlq replay", "", "queue webhooks", number))
    log.add(AuditEntry("bob", "dashboard", "queues pause", "events", outcome="failed: no rights"))
    yield redis_url
    state.client.close()


def test_the_command_lists_the_newest_entries_first(filled: str, tmp_path: Path) -> None:
    def listed(*options: str) -> list[dict[str, Any]]:
        done = run("audit", "--json", *options, cwd=tmp_path, env={"REDIS_URL": filled})
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    (first, *others) = listed()
    assert first.pop("at").startswith("20")
    assert first == {
        "who": "bob",
        "via": "dashboard",
        "action": "queues pause",
        "target": "events",
        "filter": "",
        "count": None,
        "outcome": "failed: no rights",
    }
    assert [entry["count"] for entry in others] == [2, 1, 0]
    assert len(listed("--who", "ann")) == 3
    assert len(listed("--who", "ann@host", "--action", "dlq", "--since", "1h")) == 3
    assert listed("--since", "2999-01-01") == []
    table = run("audit", "--limit", "2", cwd=tmp_path, env={"REDIS_URL": filled})
    header, *rows = table.stdout.splitlines()
    assert header.split()[:5] == ["when", "who", "via", "action", "count"]
    assert [row.split()[2] for row in rows] == ["bob", "ann@host"]
    assert "events; failed: no rights" in rows[0]
    assert table.stderr == "more results: raise --limit above 2\n"


def test_without_a_shared_store_the_command_says_what_is_missing(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    done = run("audit", cwd=tmp_path, env={"RABBITMQ_URL": rabbitmq_url})
    assert done.returncode == 1
    assert "set STATE_URL to a Redis URL" in done.stderr
