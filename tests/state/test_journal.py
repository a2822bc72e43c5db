"""The contract of journals, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.core.errors import NotNow
from formrelay.middleware.lock_renewal import LockRenewal
from formrelay.state import make_journal
from formrelay.state.idempotency import Running
from formrelay.state.journal import (
    ClaimLost,
    RecipientOutcome,
    Run,
    job_key,
    journal_id,
)
from formrelay.state.memory_journal import MemoryJournal
from formrelay.state.redis.journal import RedisJournal
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

ANN, BOB, CAT = "ann@example.org", "bob@example.org", "cat@example.com"
ALL = [ANN, BOB, CAT]
JOB = job_key("emails", "one")
LOCK = timedelta(seconds=30)
START = 1_800_000_000.0
ACCEPTED, REFUSED = (
    RecipientOutcome("accepted", "250 2.0.0"),
    RecipientOutcome("refused", "550 5.1.1"),
)
DEFERRED, UNKNOWN = RecipientOutcome("deferred", "451 4.7.1"), RecipientOutcome("unknown")


class Timed:
    """A journal and the time it has."""

    def __init__(self, store: Any, move: Callable[[float], None]) -> None:
        self.store, self._move = store, move
        self.to(START)

    def to(self, now: float) -> None:
        self.now = now
        self._move(now)

    def begin(self, job: str = JOB) -> Run:
        run = self.store.begin(job, ALL, lock=LOCK)
        assert isinstance(run, Run)
        return run

    def states(self, job: str = JOB) -> dict[str, str]:
        record = self.store.read(job, ALL)
        assert record is not None
        return {name: one.state for name, one in record.recipients.items()}


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def timed(request: pytest.FixtureRequest) -> Timed:
    if request.param == "memory":
        clock = ManualClock()
        return Timed(MemoryJournal(clock=clock), lambda now: setattr(clock, "now", now))
    state = state_of(request.getfixturevalue("redis_url"))
    store = RedisJournal(state)
    use_clock(store, state.client, "journal.lua")
    return Timed(store, lambda now: set_clock(state.client, now))


def test_outcomes_of_all_attempts_are_read(timed: Timed) -> None:
    assert timed.store.read(JOB, ALL) is None
    first = timed.begin()
    assert first.record.recipients == dict.fromkeys(ALL, RecipientOutcome("waiting"))
    assert (first.record.counts, first.record.attempts) == ({"waiting": 3}, 1)
    timed.store.note(first, {"digest": "abc", "attachment 1": "def"})
    timed.store.sending(first, [ANN, BOB])
    assert timed.states() == {ANN: "sending", BOB: "sending", CAT: "waiting"}
    timed.to(START + 60)
    outcomes = {ANN: ACCEPTED, BOB: DEFERRED, CAT: REFUSED}
    assert timed.store.settle(first, outcomes, end=True)
    second = timed.begin()
    at = datetime.fromtimestamp(START + 60, UTC)
    assert second.record.recipients == {
        ANN: RecipientOutcome("accepted", "250 2.0.0", at),
        BOB: RecipientOutcome("deferred", "451 4.7.1", at),
        CAT: RecipientOutcome("refused", "550 5.1.1", at),
    }
    assert second.record.counts == {"accepted": 1, "deferred": 1, "refused": 1}
    assert second.record.notes == {"digest": "abc", "attachment 1": "def"}
    assert second.record.attempts == 2
    other = timed.begin(job_key("emails", "two"))
    assert other.record.counts == {"waiting": 3}
    record = timed.store.read(JOB)
    assert record is not None
    assert (record.counts, record.recipients) == (second.record.counts, {})
    assert record.began_at == datetime.fromtimestamp(START, UTC)
    other_than_the_jobs = timed.store.read(JOB, [ANN, "dan@example.org"])
    assert other_than_the_jobs is not None
    assert other_than_the_jobs.recipients.keys() == {ANN}


def test_a_second_worker_with_the_same_job_does_not_get_the_claim(timed: Timed) -> None:
    run = timed.begin()
    timed.to(START + 10)
    assert timed.store.begin(JOB, ALL) == Running(timedelta(seconds=20))
    assert timed.store.renew(run.key, run.owner, LOCK)
    timed.to(START + 39)
    assert timed.store.begin(JOB, ALL) == Running(timedelta(seconds=1))
    timed.store.sending(run, ALL)
    assert timed.store.settle(run, dict.fromkeys(ALL, DEFERRED))
    assert isinstance(timed.store.begin(JOB, ALL), Running)
    timed.store.end(run)
    assert timed.begin().record.attempts == 2


def test_what_a_dead_worker_was_sending_is_unknown(timed: Timed) -> None:
    dead = timed.begin()
    timed.store.settle(dead, {CAT: REFUSED})
    timed.store.sending(dead, [ANN])
    timed.to(START + 30)
    second = timed.begin()
    assert second.record.recipients[ANN].state == "unknown"
    assert second.record.recipients[ANN].unknowns == 1
    assert second.record.recipients[BOB] == RecipientOutcome("waiting")
    assert second.record.recipients[CAT].state == "refused"
    timed.store.sending(second, [ANN, BOB])  # once more
    timed.store.settle(second, {BOB: ACCEPTED})
    timed.to(START + 60)
    third = timed.begin()
    assert third.record.recipients[ANN].unknowns == 2
    assert third.record.recipients[BOB].unknowns == 0
    assert third.record.counts == {"unknown": 1, "accepted": 1, "refused": 1}


def test_an_attempt_that_ends_leaves_no_marks(timed: Timed) -> None:
    run = timed.begin()
    timed.store.sending(run, [ANN, BOB])
    assert timed.store.settle(run, {BOB: ACCEPTED}, end=True)
    assert timed.states() == {ANN: "unknown", BOB: "accepted", CAT: "waiting"}
    run = timed.begin()
    timed.store.sending(run, [CAT])
    timed.store.end(run)
    assert timed.states() == {ANN: "unknown", BOB: "accepted", CAT: "unknown"}


def test_an_outcome_that_is_unknown_within_an_attempt_counts_once(timed: Timed) -> None:
    run = timed.begin()
    timed.store.sending(run, [ANN])
    timed.store.settle(run, {ANN: UNKNOWN})
    timed.store.settle(run, {ANN: UNKNOWN}, end=True)
    run = timed.begin()
    assert run.record.recipients[ANN].unknowns == 1
    timed.store.sending(run, [ANN])
    timed.store.settle(run, {ANN: UNKNOWN})
    record = timed.store.read(JOB, [ANN])
    assert record is not None
    assert record.recipients[ANN].unknowns == 2


def test_a_worker_that_stood_still_may_not_send(timed: Timed) -> None:
    frozen = timed.begin()
    timed.to(START + 31)
    taken_over = timed.begin()
    for call in (
        lambda: timed.store.sending(frozen, [ANN]),
        lambda: timed.store.note(frozen, {"digest": "abc"}),
    ):
        with pytest.raises(ClaimLost, match="Another worker") as info:
            call()
        assert isinstance(info.value, NotNow)
    assert not timed.store.renew(frozen.key, frozen.owner, LOCK)
    assert not timed.store.settle(frozen, {ANN: REFUSED, BOB: UNKNOWN}, end=True)
    timed.store.end(frozen)
    assert set(timed.states().values()) == {"waiting"}
    assert timed.store.renew(taken_over.key, taken_over.owner, LOCK)
    timed.store.sending(taken_over, ALL)


def test_a_claim_that_has_ended_and_that_nobody_took_goes_on(timed: Timed) -> None:
    run = timed.begin()
    timed.to(START + 31)
    timed.store.sending(run, [ANN])
    assert timed.store.settle(run, {ANN: ACCEPTED})
    assert timed.store.renew(run.key, run.owner, LOCK)
    assert isinstance(timed.store.begin(JOB, ALL), Running)


def test_an_acceptance_is_stored_whoever_has_the_claim_and_stays(timed: Timed) -> None:
    frozen = timed.begin()
    timed.store.sending(frozen, [ANN])
    timed.to(START + 31)
    second = timed.begin()
    assert second.record.recipients[ANN].state == "unknown"
    assert not timed.store.settle(frozen, {ANN: ACCEPTED})  # its answer came at last
    with pytest.raises(ClaimLost):
        timed.store.sending(second, [ANN, BOB])
    assert timed.states() == {ANN: "accepted", BOB: "waiting", CAT: "waiting"}
    timed.store.settle(second, {ANN: REFUSED, BOB: ACCEPTED})
    timed.store.settle(second, {ANN: UNKNOWN, BOB: DEFERRED}, end=True)
    assert timed.states() == {ANN: "accepted", BOB: "accepted", CAT: "waiting"}


@pytest.mark.parametrize("text", ["x" * 501, "two\nlines", "nul\0"])
def test_long_texts_and_lines_are_refused(timed: Timed, text: str) -> None:
    run = timed.begin()
    with pytest.raises(ValueError, match="one line of at most 500"):
        timed.store.settle(run, {ANN: RecipientOutcome("refused", text)})
    with pytest.raises(ValueError, match="one line of at most 500"):
        timed.store.note(run, {"note": text})


def test_of_many_workers_at_once_one_gets_the_claim(redis_url: str) -> None:
    store = make_journal(state_of(redis_url))
    with ThreadPoolExecutor(16) as pool:
        for number in range(10):
            found = list(pool.map(lambda _, n=number: store.begin(str(n), ALL), range(16)))
            assert sum(isinstance(one, Run) for one in found) == 1


@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
def test_the_locks_thread_renews_a_claim(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("redis_url") if kind == "redis" else None
    store = make_journal(None if url is None else state_of(url))
    lock = timedelta(seconds=2)
    run = store.begin(JOB, ALL, lock=lock)
    assert isinstance(run, Run)
    renewal = LockRenewal()
    renewal.add(run)
    try:
        ended = datetime.now(UTC) + 2 * lock
        while datetime.now(UTC) < ended:
            assert isinstance(store.begin(JOB, ALL, lock=lock), Running)
    finally:
        renewal.remove(run)
        renewal.stop()
    wait_until(lambda: isinstance(store.begin(JOB, ALL, lock=lock), Run))


def test_a_journal_is_forgotten_after_its_time() -> None:
    clock = ManualClock()
    store = MemoryJournal(clock=clock)
    run = store.begin(JOB, ALL)
    assert isinstance(run, Run)
    clock.now += 29 * 86_400
    store.settle(run, {ANN: ACCEPTED})
    clock.now += 29 * 86_400
    assert store.read(JOB) is not None
    clock.now += 86_400
    assert store.read(JOB) is None


def test_a_journal_in_memory_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formrelay.state.memory_journal._MAX_JOURNALS", 10)
    store = MemoryJournal()
    running = store.begin("running", ALL)
    for number in range(20):
        run = store.begin(str(number), ALL)
        assert isinstance(run, Run)
        store.end(run)
    assert store.read("0") is None
    assert store.read("19") is not None
    assert isinstance(running, Run)
    store.sending(running, [ANN])


def test_redis_has_digests_only_and_every_key_expires(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    store = make_journal(state)
    for job in (JOB, job_key("emails", "two")):
        run = store.begin(job, ALL)
        assert isinstance(run, Run)
        store.sending(run, ALL)
        store.settle(run, {ANN: ACCEPTED}, end=True)
    store.begin(job_key("emails", "begun only"), ALL)
    keys = state.client.keys("*")
    assert len(keys) == 3
    assert all(key.startswith(b"ns:__journal__.") for key in keys)
    names = [set(state.client.hkeys(key)) - {b"claim", b"attempts", b"began"} for key in keys]
    assert len(set().union(*names)) == 9  # an address has another digest in each job
    stored = b"".join(b"".join(state.client.dump(key) for key in keys).split())
    assert b"ann" not in stored
    assert b"example" not in stored
    month = 30 * 86_400_000
    assert all(month - 60_000 < state.client.pttl(key) <= month for key in keys)


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = make_journal(state_of(redis_server.url))
    run = store.begin(JOB, ALL)
    assert isinstance(run, Run)
    redis_server.kill()
    for call in (
        lambda: store.begin(JOB, ALL),
        lambda: store.renew(run.key, run.owner, LOCK),
        lambda: store.sending(run, ALL),
        lambda: store.settle(run, {}),
        lambda: store.note(run, {"a": "b"}),
        lambda: store.end(run),
        lambda: store.read(JOB),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()


def test_reports_find_a_journal_by_its_id_in_any_case(timed: Timed) -> None:
    id = journal_id(JOB)
    assert timed.store.find(id, ALL) is None
    timed.store.mark(id, {"report 1": "bounce"})  # makes no journal
    assert timed.store.find(id) is None
    run = timed.store.begin(JOB, ALL, notes={"form": "f1"})
    assert run.record.notes == {"form": "f1"}
    timed.store.end(run)
    again = timed.store.begin(JOB, ALL, notes={"form": "f2", "job": "j"})
    timed.store.mark(id, {"report 1": "bounce"})  # while it is claimed
    found = timed.store.find(id, [ANN.upper(), "eve@example.org"])
    assert list(found.recipients) == [ANN.upper()]
    assert found.notes == {"form": "f1", "job": "j", "report 1": "bounce"}
    assert timed.store.settle(again, {ANN.upper(): ACCEPTED})
    assert timed.states()[ANN] == "accepted"


@pytest.mark.parametrize("note", ["x" * 501, "two\nlines"])
def test_a_note_at_the_beginning_is_checked(timed: Timed, note: str) -> None:
    with pytest.raises(ValueError, match="expected one line"):
        timed.store.begin(JOB, ALL, notes={"form": note})
    assert timed.store.read(JOB) is None


def test_a_journal_is_found_by_the_id_that_the_other_side_uses(timed: Timed) -> None:
    run = timed.store.begin("job", [ANN])
    assert isinstance(run, Run)
    assert timed.store.named("their-id") is None
    timed.store.name(run, "their-id")
    assert timed.store.named("their-id") == run.key == journal_id("job")
    assert timed.store.named("their-i") is None


def test_notes_come_with_the_marks(timed: Timed) -> None:
    run = timed.store.begin("job", [ANN, BOB])
    assert isinstance(run, Run)
    timed.store.sending(run, [ANN], notes={"content": "one", "other": "x"})
    timed.store.settle(run, {ANN: RecipientOutcome("accepted")})
    with pytest.raises(ClaimLost):
        timed.store.sending(run, [ANN], notes={"content": "two"})
    timed.store.sending(run, [BOB], notes={"content": "three"})
    record = timed.store.read("job", [ANN, BOB])
    assert record is not None
    assert record.notes == {"content": "three", "other": "x"}
    assert [record.recipients[each].state for each in (ANN, BOB)] == ["accepted", "sending"]
