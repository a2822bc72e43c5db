"""An outbox keeps the order of an alert, waits after failures, and is delivered from memory."""

from __future__ import annotations

from datetime import timedelta
from threading import Event
from typing import Any

import pytest

from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.errors import SinkPermanent, SinkTransient
from formrelay.ops.monitor import outbox_delivery
from formrelay.ops.monitor.bounded import BoundedCalls, Late
from formrelay.ops.monitor.findings import Finding, finding
from formrelay.ops.monitor.outbox_delivery import OutboxDelivery
from formrelay.ops.monitor.rules import Evaluation
from formrelay.ops.monitor.watching import Memory, Watch
from formrelay.state.alert_store import Leadership, MemoryAlertStore, OutboxEntry
from formrelay.testing import MemoryBroker
from tests.ops.monitor.watched import Kept, look, make_monitor, settings_of
from tests.support.clock import ManualClock
from tests.support.waiting import wait_until

SLOW, HUNG = (finding("queue_too_long", "", queue=name) for name in ("slow", "hung"))


class Alerts:
    """Alerts in memory, by a clock of the test."""

    def __init__(self, *receivers: Kept) -> None:
        self.clock = ManualClock()
        self.store = MemoryAlertStore(clock=self.clock)
        self.delivery = OutboxDelivery(self.store, receivers, self.clock)
        self.watch = Watch(self.store, "me", settings_of().alerts, self.delivery)

    def find(self, *findings: Finding, after: float = 1.0) -> None:
        """Note what a look has found."""
        self.clock.now += after
        self.store.lead("me", timedelta(minutes=1), self.clock.now)
        self.watch.note(lambda *_: Evaluation(list(findings), frozenset()), self.clock.now)
        self.delivery.join(30)

    @property
    def left(self) -> list[tuple[str, str]]:
        """Receiver and event of each entry that was not delivered."""
        entries = self.store.load()[1]
        return [(each.receiver, each.notification["event"]) for each in entries]


def test_the_end_of_an_alert_never_overtakes_its_begin() -> None:
    kept = Kept()
    alerts = Alerts(kept)
    kept.error = SinkPermanent("refused")
    alerts.find(SLOW)
    kept.error = None
    alerts.find()
    alerts.find(HUNG)  # another alert does not wait
    assert [labels["queue"] for _, _, labels in kept.said] == ["hung"]
    assert alerts.left == [("kept", "firing"), ("kept", "resolved")]
    alerts.find(HUNG, after=60)
    assert [event for event, _, _ in kept.said] == ["firing", "firing", "resolved"]
    assert alerts.left == []


def test_a_failing_receiver_is_retried_at_growing_intervals() -> None:
    kept = Kept()
    alerts = Alerts(kept)
    kept.error = SinkTransient("down")
    for _ in range(100):
        alerts.find(SLOW, HUNG)
    assert kept.attempts == 5, "after 0, 5, 15, 35 and 75 s, whatever the number of alerts"
    kept.error = None
    alerts.find(SLOW, HUNG, after=outbox_delivery._MAX_RETRY)
    assert [event for event, _, _ in kept.said] == ["firing"] * 2


def test_entries_of_receivers_that_are_gone_are_kept_for_a_day() -> None:
    alerts = Alerts(Kept())
    alerts.store.lead("me", timedelta(minutes=1), 0)
    gone = OutboxEntry("id", "gone", {"key": "k", "event": "firing"}, alerts.clock.now)
    alerts.store.commit("me", None, [gone])
    alerts.find(after=86_000)
    assert alerts.left == [("gone", "firing")]
    alerts.find(after=1_000)
    assert alerts.left == []


def test_a_leader_that_loses_its_store_delivers_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(MemoryAlertStore):
        fails = False

        def lead(self, *arguments: Any) -> Leadership:
            if self.fails:
                raise BrokerUnavailable("down")
            return super().lead(*arguments)

        def settle(self, *arguments: Any) -> None:
            if self.fails:
                raise BrokerUnavailable("down")
            super().settle(*arguments)

    monkeypatch.setattr(outbox_delivery, "_FIRST_RETRY", 0.0)
    kept, store = Kept(), Failing()
    monitor = make_monitor(MemoryBroker(), kept, store=store)
    monitor._lock = None
    monitor._shared.note(lambda *_: Evaluation([], frozenset()), 0)
    kept.error = SinkTransient("down")
    monkeypatch.setattr(
        "formrelay.ops.monitor.monitor.evaluate", lambda *_: Evaluation([SLOW], frozenset())
    )
    look(monitor)
    assert kept.got == []
    store.fails, kept.error = True, None
    for _ in range(2):
        look(monitor)
    assert ("firing", "queue_too_long", {"queue": "slow"}) in kept.said
    store.fails = False
    for _ in range(2):
        look(monitor)
    rules = [rule for _, rule, _ in kept.said]
    assert rules.count("queue_too_long") == 1, "it is not said again when the store is back"


def test_dead_letters_grow_from_their_lowest_number_in_the_window() -> None:
    memory = Memory()
    grown = [
        memory.note_dead({"q": count}, at, window=100)["q"]
        for at, count in ((0, 50), (10, 55), (15, 3), (31, 9), (115, 12), (130, 12))
    ]
    assert grown == [0, 5, 0, 6, 9, 3]
    assert Memory.from_json(memory.to_json()).dead == memory.dead
    assert Memory.from_json({"dead": "?"}).dead == {}


def test_a_call_that_hangs_is_late_and_not_repeated() -> None:
    ends, started = Event(), []

    def hang() -> None:
        started.append(1)
        ends.wait(60)

    calls = BoundedCalls()
    for _ in range(2):
        found = calls.run({"hang": hang, "work": lambda: 5}, 0.05)
        assert isinstance(found["hang"], Late)
    wait_until(lambda: started)
    assert len(started) == 1
    ends.set()
