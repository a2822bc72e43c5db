"""The contract of the audit log, in memory and in a real Redis."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import make_audit_log
from formrelay.state.audit import MAX_TEXT, AuditEntry, AuditLog, MemoryAuditLog
from formrelay.state.redis.audit import RedisAuditLog
from tests.state.stores import state_of
from tests.support.servers import RedisServer

ENTRY = AuditEntry("ann@host", "cli", "dlq replay", "", "queue webhooks", 12)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def log(request: pytest.FixtureRequest) -> AuditLog:
    if request.param == "memory":
        return MemoryAuditLog(most=50)
    return RedisAuditLog(state_of(request.getfixturevalue("redis_url")), most=50)


def numbers(log: AuditLog, limit: int) -> list[list[int | None]]:
    """The counts on each page, from the newest."""
    found, cursor = [], None
    while True:
        page = log.newest(limit, cursor)
        found.append([entry.count for entry in page.entries])
        if page.cursor is None:
            return found
        cursor = page.cursor


def test_an_entry_is_read_as_it_was_written_with_the_time(log: AuditLog) -> None:
    assert log.newest().entries == []
    log.add(ENTRY)
    (found,) = log.newest().entries
    assert found.at is not None
    assert abs(found.at - datetime.now(UTC)) < timedelta(minutes=1)
    assert replace(found, at=None) == ENTRY
    log.add(AuditEntry("bob", "dashboard", "queues pause", "events", outcome="failed: no rights"))
    (newest, _) = log.newest().entries
    assert newest.count is None
    assert (newest.who, newest.target, newest.outcome) == ("bob", "events", "failed: no rights")


def test_pages_have_each_entry_once_also_while_entries_are_added(log: AuditLog) -> None:
    for number in range(7):
        log.add(replace(ENTRY, count=number))
    assert numbers(log, 3) == [[6, 5, 4], [3, 2, 1], [0]]
    first = log.newest(4)
    log.add(replace(ENTRY, count=100))
    assert [entry.count for entry in log.newest(4, first.cursor).entries] == [2, 1, 0]
    assert numbers(log, 8) == [[100, 6, 5, 4, 3, 2, 1, 0]]


def test_the_oldest_entries_are_dropped(log: AuditLog) -> None:
    for number in range(60):
        log.add(replace(ENTRY, count=number))
    assert numbers(log, 100) == [[*range(59, 9, -1)]]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1-", "1-2-3", "(1-1", "٣"])
def test_another_text_is_no_cursor(log: AuditLog, cursor: str) -> None:
    with pytest.raises(ValueError, match="expected the cursor of an earlier page"):
        log.newest(1, cursor)


def test_texts_are_escaped_and_cut(log: AuditLog) -> None:
    log.add(replace(ENTRY, who="\x1b[31mann\u202e", target="a\udc80b", filter="x" * 10_000))
    log.add(replace(ENTRY, target="\x00" * MAX_TEXT))
    second, first = log.newest().entries
    assert first.who == r"\x1b[31mann\u202e"
    assert first.target == r"a\udc80b"
    assert first.filter == "x" * MAX_TEXT
    assert len(second.target) == MAX_TEXT
    assert second.target.endswith("…")


@pytest.mark.redis
def test_the_key_has_the_namespace_and_another_process_reads_it(redis_url: str) -> None:
    make_audit_log(state_of(redis_url, "ns")).add(ENTRY)
    state = state_of(redis_url, "ns")
    assert state.client.keys("*") == [b"ns:__audit__"]
    assert [entry.who for entry in make_audit_log(state).newest().entries] == ["ann@host"]


@pytest.mark.redis
def test_fields_that_are_missing_or_unknown_do_not_hide_an_entry(redis_url: str) -> None:
    state = state_of(redis_url)
    state.client.xadd("dramatiq:__audit__", {"who": b"\xff", "later": "x"})
    (entry,) = make_audit_log(state).newest().entries
    assert entry.who == "\ufffd"
    assert entry.count is None


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    log: Any = make_audit_log(state_of(redis_server.url))
    log.add(ENTRY)
    redis_server.kill()
    for call in (lambda: log.add(ENTRY), log.newest):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()
