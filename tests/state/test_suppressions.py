"""The contract of suppressions, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerUnavailable
from formrelay.state import make_suppressions
from formrelay.state.redis.suppressions import RedisSuppressions
from formrelay.state.suppressions import (
    BounceRules,
    MemorySuppressions,
    Suppression,
    SuppressionPage,
    SuppressionReason,
    Suppressions,
    note_bounce,
    note_complaint,
    rule_of,
)
from tests.state.stores import set_clock, state_of, use_clock
from tests.support.clock import ManualClock
from tests.support.servers import RedisServer

DAY = timedelta(days=1)
START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
ANN, BOB, CAT = "ann@example.org", "bob@example.org", "jörg@xn--exmple-cua.com"


class Timed:
    """A store and the time it has."""

    def __init__(self, store: Any, move: Callable[[float], None]) -> None:
        self.store, self._move = store, move
        self.clock = ManualClock()
        self.to(START)

    def to(self, now: datetime) -> None:
        self.now = now
        self.clock.now = now.timestamp()
        self._move(now.timestamp())


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def timed(request: pytest.FixtureRequest) -> Timed:
    if request.param == "memory":
        clock = ManualClock()
        return Timed(MemorySuppressions(clock=clock), lambda now: setattr(clock, "now", now))
    state = state_of(request.getfixturevalue("redis_url"))
    store = RedisSuppressions(state)
    use_clock(store, state.client, "suppressions.lua")
    return Timed(store, lambda now: set_clock(state.client, now))


def pages(
    store: Suppressions, limit: int, reason: SuppressionReason | None = None
) -> list[SuppressionPage]:
    found, after = [], ""
    while True:
        found.append(store.page(after, limit, reason=reason))
        if found[-1].after is None:
            return found
        after = found[-1].after


def entries(
    store: Suppressions, limit: int = 100, reason: SuppressionReason | None = None
) -> list[Any]:
    return [entry for page in pages(store, limit, reason) for entry in page.entries]


def test_entries_are_found_in_one_call(timed: Timed) -> None:
    assert timed.store.find([ANN, BOB]) == {}
    ends = START + 30 * DAY
    given = [
        Suppression(ANN, SuppressionReason.BOUNCED, START - DAY, None, 2, "5.1.1"),
        Suppression(CAT, SuppressionReason.FULL, None, ends),
    ]
    assert timed.store.add(given) == 2
    assert timed.store.find([CAT, BOB, ANN]) == {
        ANN: given[0],
        CAT: Suppression(CAT, SuppressionReason.FULL, START, ends),
    }
    assert timed.store.find([]) == {}
    assert timed.store.count() == 2


def test_an_entry_ends_at_its_time_exactly(timed: Timed) -> None:
    ends = START + DAY
    timed.store.add(
        [
            Suppression(ANN, SuppressionReason.FULL, None, ends),
            Suppression(BOB, SuppressionReason.MANUAL),
        ]
    )
    timed.to(ends - timedelta(milliseconds=1))
    assert ANN in timed.store.find([ANN])
    assert timed.store.count() == 2
    timed.to(ends)
    assert timed.store.count() == 1
    assert [entry.address for entry in entries(timed.store)] == [BOB]
    assert timed.store.find([ANN, BOB]).keys() == {BOB}
    assert timed.store.remove([ANN]) == 0
    timed.to(START)  # it was removed when it was found to have ended
    assert timed.store.find([ANN]) == {}


def test_an_entry_that_has_ended_already_is_not_added(timed: Timed) -> None:
    assert timed.store.add([Suppression(ANN, SuppressionReason.FULL, START - DAY, START)]) == 0
    assert timed.store.find([ANN]) == {}


def test_a_known_address_keeps_the_later_end_and_the_weightier_reason(timed: Timed) -> None:
    def add(reason: SuppressionReason, expires: datetime | None, status: str = "") -> Suppression:
        timed.store.add([Suppression(ANN, reason, None, expires, 1, status)])
        return timed.store.find([ANN])[ANN]

    later, latest = START + 60 * DAY, START + 90 * DAY
    assert add(SuppressionReason.FULL, later, "5.2.2") == Suppression(
        ANN, SuppressionReason.FULL, START, later, 1, "5.2.2"
    )
    timed.to(START + DAY)
    assert add(SuppressionReason.FULL, START + 10 * DAY, "5.2.1") == Suppression(
        ANN, SuppressionReason.FULL, START, later, 2, "5.2.1"
    )
    assert add(SuppressionReason.BOUNCED, latest, "5.1.1").expires == latest
    assert add(SuppressionReason.COMPLAINT, None) == Suppression(
        ANN, SuppressionReason.COMPLAINT, START, None, 4
    )
    assert add(SuppressionReason.FULL, later, "5.2.2") == Suppression(
        ANN, SuppressionReason.COMPLAINT, START, None, 5
    )
    assert timed.store.add([Suppression(ANN, SuppressionReason.MANUAL, None)]) == 0
    timed.to(START + 400 * DAY)
    assert timed.store.find([ANN])[ANN].reason is SuppressionReason.COMPLAINT


def test_an_end_that_is_taken_away_does_not_remove_the_entry_later(timed: Timed) -> None:
    timed.store.add([Suppression(ANN, SuppressionReason.FULL, None, START + DAY)])
    timed.store.add([Suppression(ANN, SuppressionReason.MANUAL)])
    timed.to(START + 2 * DAY)
    timed.store.add([Suppression(BOB, SuppressionReason.MANUAL)])  # also removes what has ended
    assert timed.store.count() == 2
    assert len(entries(timed.store)) == 2


def test_an_export_can_be_imported_again(timed: Timed) -> None:
    timed.store.add([Suppression(ANN, SuppressionReason.BOUNCED, None, START + DAY, 7, "5.1.1")])
    timed.store.add([Suppression(BOB, SuppressionReason.COMPLAINT)])
    exported = entries(timed.store)
    timed.to(START + timedelta(hours=1))
    assert timed.store.add(exported) == 0
    assert entries(timed.store) == exported
    assert timed.store.remove([ANN, BOB]) == 2
    assert timed.store.add(exported) == 2
    assert entries(timed.store) == exported


def test_removing_forgets_soft_bounces_too(timed: Timed) -> None:
    timed.store.add([Suppression(ANN, SuppressionReason.MANUAL)])
    for event in "ab":
        timed.store.note_soft_bounce(ANN, event, DAY)
    assert timed.store.remove([ANN, BOB, ANN]) == 1
    assert timed.store.find([ANN]) == {}
    assert entries(timed.store) == []
    assert timed.store.note_soft_bounce(ANN, "c", DAY) == 1


def test_pages_have_every_entry_once_also_while_entries_come_and_go(timed: Timed) -> None:
    names = [f"{number:03}@example.org" for number in range(250)]
    timed.store.add([Suppression(name, SuppressionReason.MANUAL) for name in reversed(names)])
    found = pages(timed.store, 100)
    assert [len(page.entries) for page in found] == [100, 100, 50]
    assert [entry.address for page in found for entry in page.entries] == names
    first = timed.store.page("", 100)
    timed.store.remove([names[5], names[99], names[150]])
    timed.store.add([Suppression("000a@example.org", SuppressionReason.MANUAL)])
    rest = [entry.address for entry in timed.store.page(first.after, 500).entries]
    assert rest == [name for name in names[100:] if name != names[150]]


def test_pages_of_a_reason_have_its_entries_only(timed: Timed) -> None:
    timed.store.add(
        Suppression(
            f"{number:04}@example.org",
            SuppressionReason.FULL if number % 50 else SuppressionReason.COMPLAINT,
        )
        for number in range(1000)
    )
    found = entries(timed.store, 7, SuppressionReason.COMPLAINT)
    assert [entry.address for entry in found] == [
        f"{number:04}@example.org" for number in range(0, 1000, 50)
    ]
    assert entries(timed.store, 7, SuppressionReason.UNSUBSCRIBED) == []


@pytest.mark.parametrize(
    "address",
    [
        "", "ann", "@example.org", "ann@", "Ann@example.org", "ann@Example.org",
        "ann@exämple.org", "a nn@example.org", "ann@example.org\n", "a\x00@example.org",
        "a\ud800@example.org", "ann@example.org\u2028", "ann @example.org",
        "ann@exa mple.org", "a" * 320 + "@example.org",
    ],
)  # fmt: skip
def test_an_address_that_is_not_in_its_normal_form_is_refused_and_not_quoted(
    timed: Timed, address: str
) -> None:
    for call in (
        lambda: timed.store.find([address]),
        lambda: timed.store.add([Suppression(address, SuppressionReason.MANUAL)]),
        lambda: timed.store.remove([address]),
        lambda: timed.store.note_soft_bounce(address, "a", DAY),
    ):
        with pytest.raises(ValueError, match="expected an e-mail address") as info:
            call()
        assert not address or address not in str(info.value)


def test_a_quoted_local_part_may_have_spaces(timed: Timed) -> None:
    assert timed.store.add([Suppression('"ann b"@example.org', SuppressionReason.MANUAL)]) == 1
    assert timed.store.find(['"ann b"@example.org'])


def test_a_wrong_entry_is_refused_and_nothing_is_added(timed: Timed) -> None:
    for wrong, said in (
        (Suppression(BOB, SuppressionReason.FULL, count=0), "count"),
        (Suppression(BOB, SuppressionReason.FULL, count=10**9), "count"),
        (Suppression(BOB, SuppressionReason.FULL, status="550 user unknown"), "5.1.1"),
        (Suppression(BOB, SuppressionReason.FULL, since=datetime(2026, 1, 1)), "time zone"),
        (Suppression(BOB, "other"), "other"),
    ):
        with pytest.raises(ValueError, match=said):
            timed.store.add([Suppression(ANN, SuppressionReason.MANUAL), wrong])
    assert timed.store.count() == 0


@pytest.mark.parametrize(
    ("status", "rule"),
    [
        *((f"5.1.{detail}", "now") for detail in (1, 2, 3, 6, 10)),
        *((f"5.1.{detail}", "never") for detail in (0, 4, 5, 7, 8, 9, 90)),
        *((status, "after_some") for status in ("5.2.1", "5.2.2", "4.2.2")),
        *((status, "never") for status in ("5.7.1", "5.7.30", "4.1.1", "4.2.1", "5.2.3")),
        *((status, "never") for status in ("", "5.1", "550 5.1.1", "5.1.1\n", "2.1.5", "5.0.0")),
    ],
)
def test_the_status_decides_about_a_suppression(status: str, rule: str) -> None:
    assert rule_of(status) == rule


def test_a_missing_mailbox_is_suppressed_at_once_and_a_policy_never(timed: Timed) -> None:
    store, clock = timed.store, timed.clock
    assert note_bounce(store, ANN, "5.7.1", "one", clock=clock) is None
    assert store.find([ANN]) == {}
    expected = Suppression(ANN, SuppressionReason.BOUNCED, START, START + 7 * DAY, 1, "5.1.1")
    assert note_bounce(store, ANN, "5.1.1", "one", clock=clock) == expected
    assert note_complaint(store, BOB) == Suppression(BOB, SuppressionReason.COMPLAINT, START)


def test_a_full_mailbox_is_suppressed_after_some_events_and_for_some_time(timed: Timed) -> None:
    rules = BounceRules(soft_limit=3, soft_window=10 * DAY, keep_full=(5 * DAY,))

    def bounce(event: str) -> Suppression | None:
        return note_bounce(timed.store, ANN, "5.2.2", event, rules, clock=timed.clock)

    for seconds in range(3):  # the same report again
        timed.to(START + timedelta(seconds=seconds))
        assert bounce("one") is None
    timed.to(START + 6 * DAY)
    assert bounce("two") is None
    timed.to(START + 10 * DAY)
    assert bounce("three") is None  # the first is forgotten
    timed.to(START + 11 * DAY)
    ends = START + 16 * DAY
    assert bounce("four") == Suppression(ANN, SuppressionReason.FULL, timed.now, ends, 3, "5.2.2")
    timed.to(ends)
    assert timed.store.find([ANN]) == {}


@pytest.mark.parametrize(
    ("status", "events", "days"),
    [("5.1.1", 1, [7, 90, None, None]), ("5.2.2", 3, [30, 90, 90, 90])],
)
def test_an_address_that_bounces_again_is_suppressed_for_longer(
    timed: Timed, status: str, events: int, days: list[int | None]
) -> None:
    ends, now = [], START
    for time in range(len(days)):
        for number in range(events):
            found = note_bounce(timed.store, ANN, status, f"{time} {number}", clock=timed.clock)
        assert found is not None
        # An e-mail that was on its way, and a report that comes again, extend nothing.
        for event in ("late", f"{time} 0"):
            later = note_bounce(timed.store, ANN, status, f"{time} {event}", clock=timed.clock)
            assert later is not None
            assert later.expires == found.expires
        ends.append(None if found.expires is None else (found.expires - now) // DAY)
        now += 100 * DAY
        timed.to(now)
    assert ends == days
    timed.store.remove([ANN])  # forgets all of it
    for number in range(events):
        found = note_bounce(timed.store, ANN, status, f"new {number}", clock=timed.clock)
    assert found is not None
    assert found.expires == now + timedelta(days=days[0] or 0)


@pytest.mark.slow
def test_fifty_thousand_entries_are_added_found_listed_and_removed(redis_url: str) -> None:
    state = state_of(redis_url)
    store = make_suppressions(state)
    names = [f"person.{number:06}@example.org" for number in range(50_000)]
    ends = datetime.now(UTC) + DAY
    assert (
        store.add(Suppression(name, SuppressionReason.BOUNCED, None, ends) for name in names)
        == 50_000
    )
    assert store.count() == 50_000
    found = store.find(names[::1000])
    assert len(found) == 50
    seen, after = 0, ""
    while after is not None:
        page = store.page(after, 5000)
        assert len(page.entries) <= 1000  # a call that takes long blocks Redis
        seen, after = seen + len(page.entries), page.after
    assert seen == 50_000
    assert state.client.info("memory")["used_memory"] < 75_000_000
    assert store.remove(names) == 50_000
    assert state.client.keys("*") == []


def test_what_has_ended_is_removed_by_later_calls(redis_url: str) -> None:
    state = state_of(redis_url)
    store = RedisSuppressions(state)
    use_clock(store, state.client, "suppressions.lua")
    set_clock(state.client, START.timestamp())
    store.add(
        Suppression(f"{n}@example.org", SuppressionReason.FULL, None, START + DAY)
        for n in range(150)
    )
    set_clock(state.client, (START + 2 * DAY).timestamp())
    store.add([Suppression(ANN, SuppressionReason.MANUAL)])
    store.add([Suppression(BOB, SuppressionReason.MANUAL)])
    entries = "dramatiq:__suppressed__"
    assert state.client.hlen(entries) == state.client.zcard(f"{entries}.index") == 2
    assert state.client.zcard(f"{entries}.ends") == 0


def test_keys_have_the_namespace_and_soft_bounces_expire(redis_url: str) -> None:
    state = state_of(redis_url, "ns")
    store = make_suppressions(state)
    store.add([Suppression(ANN, SuppressionReason.FULL, None, datetime.now(UTC) + DAY)])
    store.note_soft_bounce(ANN, "message", DAY)
    keys = sorted(state.client.keys("*"))
    assert keys[1:] == [b"ns:__suppressed__" + end for end in (b"", b".ends", b".index")]
    assert keys[0].startswith(b"ns:__soft_bounces__.")
    assert 86_000_000 < state.client.pttl(keys[0]) <= 86_400_000


def test_an_unavailable_store_raises_an_error(redis_server: RedisServer) -> None:
    store = make_suppressions(state_of(redis_server.url))
    store.add([Suppression(ANN, SuppressionReason.MANUAL)])
    redis_server.kill()
    for call in (
        lambda: store.find([ANN]),
        lambda: store.add([Suppression(ANN, SuppressionReason.MANUAL)]),
        lambda: store.remove([ANN]),
        lambda: store.page(),
        lambda: store.count(),
        lambda: store.note_soft_bounce(ANN, "a", DAY),
    ):
        with pytest.raises(BrokerUnavailable, match="expected Redis at"):
            call()
