"""Delivers entries of an outbox: each receiver in a thread of its own, while it has entries."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...core.clock import Clock
from ...core.errors import BrokerError, SinkPermanent, describe
from ...state.alert_store import AlertStore, OutboxEntry
from .messages import Notification
from .receivers import Receiver

logger = logging.getLogger("formrelay.alerts")

#: Seconds until the next attempt after the first failure, and at most.
_FIRST_RETRY, _MAX_RETRY = 5.0, 300.0
#: Seconds between two refreshes of a receiver that forgets.
_REFRESH = 60.0


class OutboxDelivery:
    """Delivers the entries of one outbox.

    Args:
        store: the store with the outbox.
        clock: this machine's clock.
    """

    def __init__(self, store: AlertStore, receivers: Iterable[Receiver], clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lines = [_Line(each, self) for each in receivers]
        #: How many seconds the store's clock is ahead of this machine's.
        self.ahead = 0.0
        self._lock = threading.Lock()
        #: Results that the store has not got, and keys of entries that need no other attempt.
        self._unsettled: dict[str, tuple[OutboxEntry, bool]] = {}
        self._delivered: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names of the receivers."""
        return [line.receiver.name for line in self._lines]

    def now(self) -> float:
        """Unix seconds by the store's clock."""
        return self._clock.time() + self.ahead

    def deliver(self, entries: Sequence[OutboxEntry], firing: Sequence[Notification] = ()) -> None:
        """Deliver these entries from now on, in place of the entries of the last call.

        Returns at once. Without entries, no thread runs.

        Args:
            entries: the outbox, oldest first. It may have entries that were just delivered.
            firing: all alerts that are firing, for receivers that forget.
        """
        self._settle_again()
        with self._lock:
            self._delivered &= {entry.key for entry in entries}
            left = [entry for entry in entries if entry.key not in self._delivered]
        for line in self._lines:
            line.take([each for each in left if each.receiver == line.receiver.name], firing)

    def settle(self, entry: OutboxEntry, *, is_delivered: bool) -> None:
        """Note the result of an attempt, here and in the store."""
        with self._lock:
            self._unsettled[entry.key] = entry, is_delivered
            if is_delivered:
                self._delivered.add(entry.key)
        self._settle_again()

    def _settle_again(self) -> None:
        """Write the results that the store has not got yet."""
        with self._lock:
            results = dict(self._unsettled)
        if not results:
            return
        done = [each for each, is_delivered in results.values() if is_delivered]
        failed = [each for each, is_delivered in results.values() if not is_delivered]
        try:
            self._store.settle(done, failed)
        except BrokerError as error:
            about = {"error_message": describe(error)}
            logger.warning("cannot note which alerts were delivered", extra=about)
            return
        with self._lock:
            for key, result in results.items():
                if self._unsettled.get(key) == result:
                    del self._unsettled[key]

    def is_idle(self) -> bool:
        """Whether no attempt runs and none is due."""
        return not any(line.is_running for line in self._lines)

    def join(self, timeout: float) -> None:
        """Wait until no thread runs, at most ``timeout`` seconds."""
        for line in self._lines:
            line.join(timeout)


class _Line:
    """The entries of one receiver, in order."""

    def __init__(self, receiver: Receiver, delivery: OutboxDelivery) -> None:
        self.receiver = receiver
        self._delivery = delivery
        self._lock = threading.Lock()
        self._entries: list[OutboxEntry] = []
        self._firing: Sequence[Notification] = ()
        self._refreshed_at = float("-inf")
        #: No attempt before this time, after a failure that all entries would have.
        self._waits_until = 0.0
        self._in_progress: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None

    def take(self, entries: Sequence[OutboxEntry], firing: Sequence[Notification]) -> None:
        """Replace the entries, and start the thread if something is due."""
        now = self._delivery.now()
        with self._lock:
            self._entries = [] if now < self._waits_until else self._due(entries, now)
            self._firing = firing
            has_work = self._entries or self._must_refresh(now)
            if self._thread is not None or not has_work:
                return
            name = f"formrelay-alerts-{self.receiver.name}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _due(self, entries: Sequence[OutboxEntry], now: float) -> list[OutboxEntry]:
        """The entries that are due; about one alert, nothing overtakes an older entry."""
        found, waiting = [], set()
        for entry in entries:
            alert = entry.notification["key"]
            if alert in waiting or entry.key == self._in_progress:
                continue
            if entry.next_at > now:
                waiting.add(alert)
            else:
                found.append(entry)
        return found

    def _must_refresh(self, now: float) -> bool:
        return bool(self._firing) and now - self._refreshed_at >= _REFRESH

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            try:
                self._attempt(entry)
            except Exception as error:  # the thread must not end with entries left
                self._fail(entry, error)

    def _next(self) -> OutboxEntry | None:
        """Return the next entry; None if there is none, and then the thread ends."""
        self._refresh()
        with self._lock:
            if not self._entries:
                self._in_progress = self._thread = None
                return None
            entry = self._entries.pop(0)
            self._in_progress = entry.key
            return entry

    def _attempt(self, entry: OutboxEntry) -> None:
        self.receiver.deliver(entry.notification, entry.id, self._delivery.now())
        self._waits_until = 0.0
        self._delivery.settle(entry, is_delivered=True)

    def _fail(self, entry: OutboxEntry, error: Exception) -> None:
        wait = min(_MAX_RETRY, _FIRST_RETRY * 2 ** min(entry.attempts, 10))
        next_at = self._delivery.now() + wait
        failed = replace(entry, attempts=entry.attempts + 1, next_at=next_at)
        about = {
            "receiver": self.receiver.name,
            "error_message": describe(error),
            "attempt": failed.attempts,
            "retry_in_s": wait,
        }
        logger.warning("cannot deliver an alert", extra=about)
        if not isinstance(error, SinkPermanent):
            with self._lock:
                self._entries, self._waits_until = [], next_at
        self._delivery.settle(failed, is_delivered=False)

    def _refresh(self) -> None:
        now = self._delivery.now()
        with self._lock:
            firing = self._firing
            if not self._must_refresh(now):
                return
            self._refreshed_at = now
        try:
            self.receiver.refresh(firing, now)
        except Exception as error:  # the thread must go on
            about = {"receiver": self.receiver.name, "error_message": describe(error)}
            logger.warning("cannot refresh the alerts of a receiver", extra=about)
