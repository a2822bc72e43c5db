"""Any calls have the same results in memory and in a real Redis."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.state.audit import AuditEntry, AuditLog, AuditPage, MemoryAuditLog
from formrelay.state.history import Tally
from formrelay.state.idempotency import Running
from formrelay.state.journal import ClaimLost, RecipientOutcome, Run
from formrelay.state.memory_history import MemoryHistory
from formrelay.state.memory_journal import MemoryJournal
from formrelay.state.rate_limits import Limit, MemoryRateLimits
from formrelay.state.redis.audit import RedisAuditLog
from formrelay.state.redis.history import RedisHistory
from formrelay.state.redis.journal import RedisJournal
from formrelay.state.redis.rate_limits import RedisRateLimits
from formrelay.state.redis.suppressions import RedisSuppressions
from formrelay.state.redis.tokens import RedisTokenStore
from formrelay.state.suppressions import MemorySuppressions, Suppression, SuppressionReason
from formrelay.state.token_store import Facts, MemoryTokenStore, Pause, StoredConnection
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock

pytestmark = pytest.mark.redis

START = 1_800_000_000
NAMES = ["ann@example.org", "bob@example.org", "jörg@xn--exmple-cua.com"]
name = st.sampled_from(NAMES)
names = st.lists(name, max_size=3)
several = settings(
    max_examples=min(60, settings().max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Pair:
    """A store in memory and one in Redis, by a clock of the test.

    Args:
        script: the script of the store in Redis; "" for a store whose script reads no time.
    """

    def __init__(self, redis_url: str, memory: Any, shared: Any, script: str = "") -> None:
        self.clock, self._script = ManualClock(START), script
        self.state = state_of(redis_url, os.urandom(4).hex())
        self.memory, self.shared = memory(clock=self.clock), shared(self.state)
        if script:
            use_clock(self.shared, self.state.client, script)
        self.wait(0)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds
        if self._script:
            set_clock(self.state.client, self.clock.now)

    def check(
        self,
        steps: list[Any],
        call: Callable[..., object],
        content: Callable[[Any], object] = lambda _store: None,
    ) -> None:
        """Take each step with both stores: its result and their content must be equal.

        Args:
            call: takes a step, given a store, the name of the step and its arguments.
            content: returns what to compare after each step, given a store.
        """
        for what, *arguments in steps:
            if what == "pass":
                self.wait(*arguments)
                continue
            found = [call(store, what, *arguments) for store in (self.memory, self.shared)]
            assert found[0] == found[1], (what, arguments)
            assert content(self.memory) == content(self.shared)


@pytest.fixture
def make_pair(redis_url: str) -> Iterator[Callable[..., Pair]]:
    """Makes pairs of stores; a property makes one for each example."""
    made: list[Pair] = []

    def make(*arguments: Any) -> Pair:
        if made:
            made.pop().state.client.close()
        made.append(Pair(redis_url, *arguments))
        return made[0]

    yield make
    for pair in made:
        pair.state.client.close()


def when(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(START + seconds, UTC)


entries = st.builds(
    lambda address, reason, since, expires, count: Suppression(
        address, reason, when(since), when(expires), count, ""
    ),
    name,
    st.sampled_from(list(SuppressionReason)),
    st.none() | st.integers(-50, 50),
    st.none() | st.integers(-10, 100),
    st.integers(1, 3),
)


@several
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 40)),
            st.tuples(st.just("add"), st.lists(entries, max_size=3)),
            st.tuples(st.just("remove"), names),
            st.tuples(st.just("find"), names),
            st.tuples(
                st.just("page"),
                st.sampled_from(["", *NAMES]),
                st.none() | st.sampled_from(list(SuppressionReason)),
            ),
            st.tuples(
                st.just("soft"),
                name,
                st.sampled_from("abc"),
                st.sampled_from(["soft", "suppressed"]),
            ),
        ),
        max_size=30,
    )
)
def test_suppressions(make_pair: Callable[..., Pair], steps: list[Any]) -> None:
    def call(store: Any, what: str, *arguments: Any) -> object:
        match what:
            case "page":
                after, reason = arguments
                return store.page(after, 2, reason=reason).entries
            case "soft":
                address, event, kind = arguments
                return store.note_soft_bounce(address, event, timedelta(seconds=30), kind=kind)
            case _:
                return getattr(store, what)(arguments[0])

    pair = make_pair(MemorySuppressions, RedisSuppressions, "suppressions.lua")
    pair.check(steps, call, lambda store: store.count())


outcomes = st.builds(
    RecipientOutcome,
    st.sampled_from(["accepted", "refused", "deferred", "unknown"]),
    st.just("550 5.1.1"),
)


@several
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 40)),
            st.tuples(st.just("begin"), names),
            st.tuples(st.just("sending"), st.integers(0, 9), names),
            st.tuples(
                st.just("settle"), st.integers(0, 9), st.dictionaries(name, outcomes), st.booleans()
            ),
            st.tuples(st.just("renew"), st.integers(0, 9)),
            st.tuples(st.just("end"), st.integers(0, 9)),
        ),
        max_size=30,
    )
)
def test_journals(make_pair: Callable[..., Pair], steps: list[Any]) -> None:
    pair = make_pair(MemoryJournal, RedisJournal, "journal.lua")
    stores = (pair.memory, pair.shared)
    runs: list[tuple[Run, Run]] = []
    for what, *arguments in steps:
        if what == "pass":
            pair.wait(*arguments)
        elif what == "begin":
            begun = [store.begin("job", arguments[0]) for store in stores]
            if isinstance(begun[0], Running):
                assert begun[0] == begun[1]
            else:
                assert begun[0].record == begun[1].record
                runs.append((begun[0], begun[1]))
        elif runs:
            index, *rest = arguments
            found = [
                _call(store, what, run, rest)
                for store, run in zip(stores, runs[index % len(runs)], strict=True)
            ]
            assert found[0] == found[1], (what, arguments)
        assert pair.memory.read("job", NAMES) == pair.shared.read("job", NAMES)


def _call(store: Any, what: str, run: Run, rest: list[Any]) -> object:
    try:
        match what:
            case "renew":
                return store.renew(run.key, run.owner, run.lock)
            case "settle":
                return store.settle(run, rest[0], end=rest[1])
            case _:
                return getattr(store, what)(run, *rest)
    except ClaimLost:
        return "lost"


@several
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["create", "put", "resume", "remove"])),
            st.tuples(st.just("replace"), st.integers(0, 2)),
            st.tuples(
                st.just("pause"),
                st.sampled_from(["operator", "provider"]),
                st.none() | st.integers(0, 2),
            ),
            st.tuples(st.just("reseal"), st.booleans()),
        ),
        max_size=30,
    )
)
def test_connections(make_pair: Callable[..., Pair], steps: list[Any]) -> None:
    def call(store: Any, what: str, number: int, *arguments: Any) -> object:
        sealed, facts = f"sealed {number}".encode(), Facts("google", granted_at=float(number))
        current = store.load("c")
        generation = 0 if current is None else current.generation
        match what:
            case "create" | "put":
                return getattr(store, what)(StoredConnection("c", sealed, facts, generation))
            case "replace":
                behind = generation - arguments[0]
                return store.replace(StoredConnection("c", sealed, facts, behind))
            case "pause":
                by, behind = arguments
                at = None if behind is None else generation - behind
                return store.pause("c", Pause(by, f"cause {number}", 1.0), at)
            case "reseal":
                old = b"other" if current is None else current.sealed
                return store.reseal("c", old if arguments[0] else b"wrong", sealed)
            case _:
                return getattr(store, what)("c")

    pair = make_pair(MemoryTokenStore, RedisTokenStore)
    numbered = [(what, number, *arguments) for number, (what, *arguments) in enumerate(steps)]
    pair.check(numbered, call, _without_generations)


def _without_generations(store: Any) -> Any:
    return [(stored.sealed, stored.facts, stored.pause) for stored in store.all()]


buckets = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([None, Limit(6, timedelta(minutes=1), 2)])),
    min_size=1,
    max_size=2,
    unique_by=lambda one: one[0],
)


@several
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 100)),
            st.tuples(st.just("close"), st.sampled_from("ab"), st.integers(1, 60)),
            st.tuples(
                st.just("take"),
                buckets,
                st.integers(1, 2),
                st.sampled_from([None, "job 1", "job 2", "job 3"]),
                st.sampled_from([0, 30, 600]),
            ),
        ),
        max_size=30,
    )
)
def test_rate_limits(make_pair: Callable[..., Pair], steps: list[Any]) -> None:
    def call(store: Any, what: str, *arguments: Any) -> object:
        if what == "close":
            key, seconds = arguments
            return store.close_until(key, timedelta(seconds=seconds))
        wanted, cost, once, book = arguments
        return store.take(wanted, cost, once=once, book=timedelta(seconds=book))

    make_pair(MemoryRateLimits, RedisRateLimits, "rate_limits.lua").check(steps, call)


audit_entries = st.builds(
    AuditEntry,
    st.text(max_size=5),
    st.sampled_from(["cli", "dashboard", "django"]),
    st.text(max_size=5),
    target=st.text(max_size=400),
    count=st.none() | st.integers(0, 2**70),
)


@several
@given(st.lists(st.one_of(audit_entries, st.integers(1, 9)), max_size=30))
def test_audit_logs(redis_url: str, steps: list[Any]) -> None:
    state = state_of(redis_url, os.urandom(4).hex())
    memory, shared = MemoryAuditLog(most=8), RedisAuditLog(state, most=8)
    for step in steps:
        if isinstance(step, AuditEntry):
            memory.add(step)
            shared.add(step)
            continue
        assert _audit_pages(memory, step) == _audit_pages(shared, step)
    state.client.close()


def _audit_pages(log: AuditLog, limit: int) -> list[list[AuditEntry]]:
    pages: list[AuditPage] = [log.newest(limit)]
    while pages[-1].cursor is not None:
        pages.append(log.newest(limit, pages[-1].cursor))
    return [[replace(entry, at=None) for entry in page.entries] for page in pages]


counts = st.integers(0, 3)
tallies = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.builds(
        Tally,
        counts,
        counts,
        counts,
        counts,
        st.lists(counts, min_size=35, max_size=35) | st.just([0] * 35),
        st.dictionaries(st.sampled_from([f"e{n}" for n in range(30)]), st.integers(1, 3)),
    ),
)


@several
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, 900)),
            st.tuples(
                st.just("add"),
                tallies,
                st.integers(0, 10_000),
                st.sampled_from("xy"),
                st.integers(0, 5),
            ),
            st.tuples(
                st.sampled_from(["read", "errors"]),
                st.none() | st.lists(st.sampled_from("abcd"), unique=True),
                st.sampled_from([60, 3600, 86_400]),
            ),
        ),
        max_size=30,
    )
)
def test_history(make_pair: Callable[..., Pair], steps: list[Any]) -> None:
    def call(store: Any, what: str, *arguments: Any) -> object:
        if what == "add":
            added, age, source, number = arguments
            return store.add(added, age=timedelta(seconds=age), source=source, number=number)
        queues, span = arguments
        return getattr(store, what)(queues, timedelta(seconds=span))

    pair = make_pair(MemoryHistory, RedisHistory)
    pair.shared._now = pair.clock.time
    pair.check(steps, call)
