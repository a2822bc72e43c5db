"""Monitors of tests: with few seconds, and a receiver that keeps what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formrelay.brokers import RelayBroker
from formrelay.config import Settings
from formrelay.ops.monitor.messages import Notification
from formrelay.ops.monitor.monitor import Monitor
from formrelay.ops.monitor.receivers import Receiver
from formrelay.state.alert_store import AlertStore

#: Alerts begin and end at once.
AT_ONCE = {"ALERT_FOR_SECONDS": "0", "ALERT_HOLD_SECONDS": "0"}


class Kept:
    """A receiver that keeps what it gets, or fails as asked."""

    def __init__(self, name: str = "kept") -> None:
        self.name = name
        self.got: list[Notification] = []
        self.ids: list[str] = []
        self.error: Exception | None = None
        self.attempts = 0

    def deliver(self, notification: Notification, id: str, now: float) -> None:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        self.got.append(notification)
        self.ids.append(id)

    def refresh(self, notifications: Sequence[Notification], now: float) -> None:
        """Do nothing."""

    @property
    def said(self) -> list[tuple[str, str, dict[str, str]]]:
        """Event, rule and labels of each notification."""
        return [(each["event"], each["rule"], each["labels"]) for each in self.got]


def settings_of(**environ: str) -> Settings:
    """The settings of these variables, with alerts at once."""
    return Settings.load({"BROKER": "embedded", **AT_ONCE, **environ}, env_file=None)


def make_monitor(
    broker: RelayBroker,
    *receivers: Receiver,
    store: AlertStore | None = None,
    **environ: str,
) -> Monitor:
    """A monitor whose looks the test makes."""
    return Monitor(broker, settings_of(**environ), receivers=receivers, store=store)


def look(monitor: Monitor) -> None:
    """Look once, and wait for the deliveries."""
    monitor.look()
    monitor._shared.delivery.join(30)
    monitor._own.delivery.join(30)


def firing(monitor: Monitor) -> dict[str, dict[str, Any]]:
    """The labels of the alerts that fire, by rule."""
    return {state.finding.rule: dict(state.finding.labels) for state in monitor.firing()}
