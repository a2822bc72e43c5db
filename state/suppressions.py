"""Addresses that get no e-mail: they bounced, complained, unsubscribed, or an operator said so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from heapq import nsmallest
from threading import Lock
from typing import Literal, Protocol

from ..core.clock import SYSTEM_CLOCK, Clock
from .millis import from_millis

_MAX_ADDRESS = 320
_NOT_PLAIN = re.compile(r"^[^\"].* |[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]| @|@.* ")
_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})\Z")
#: What is counted for an address: soft bounces, and bounces that suppressed it anew.
Counted = Literal["soft", "suppressed"]
#: Maximum count of an entry, and of soft bounces.
MAX_COUNT = 1_000_000
#: The x of 5.1.x that are about the recipient's address. Others are about the sender, or a limit:
#: Microsoft's 5.1.90 is the sender's daily number of recipients.
_NO_SUCH_ADDRESS = {1, 2, 3, 6, 10}
#: A mailbox that is full or disabled. Not 4.2.1, with which Google slows down senders.
_MAY_PASS = {(5, 2, 1), (5, 2, 2), (4, 2, 2)}
#: Maximum number of addresses with soft bounces in memory; the oldest are dropped.
_MAX_SOFT = 100_000


class SuppressionReason(StrEnum):
    """Why an address is suppressed, the weightiest first."""

    COMPLAINT = "complaint"
    UNSUBSCRIBED = "unsubscribed"
    MANUAL = "manual"
    BOUNCED = "bounced"
    FULL = "full"


#: The weightiest reason of an entry wins.
WEIGHTS = {reason: weight for weight, reason in enumerate(reversed(SuppressionReason))}


@dataclass(frozen=True, slots=True)
class Suppression:
    """The entry of an address.

    Attributes:
        address: in its normal form (lower case, domain in ASCII).
        since: when it was suppressed, UTC; None in a new entry is now.
        expires: when it ends, UTC; None for never.
        count: number of reports.
        status: enhanced status of the report (RFC 3463), such as ``5.1.1``; "" without one.
    """

    address: str
    reason: SuppressionReason
    since: datetime | None = None
    expires: datetime | None = None
    count: int = 1
    status: str = ""


@dataclass(frozen=True, slots=True)
class SuppressionPage:
    """Some entries, by address.

    Attributes:
        entries: entries; fewer than asked for, or none, may come before the last page.
        after: argument for the next page; None for the last page.
    """

    entries: Sequence[Suppression]
    after: str | None


class Suppressions(Protocol):
    """Suppressed addresses. Each call is atomic for up to 500 addresses.

    Addresses are in their normal form (``sinks/smtp/address.py``). An expired entry is absent.

    Raises (each method):
        ValueError: an address is not in its normal form; it is not quoted.
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def find(self, addresses: Iterable[str]) -> dict[str, Suppression]:
        """Return the entries of those addresses that are suppressed."""

    def add(self, entries: Iterable[Suppression]) -> int:
        """Add entries, and return how many addresses were not suppressed before.

        In an entry that exists, the later end and the weightier reason win, and counts add up. An
        entry with the same ``since`` is the same report, such as an import of an export. A
        repetition after a lost answer may count a report twice.
        """

    def remove(self, addresses: Iterable[str]) -> int:
        """Remove entries and what was counted; return how many addresses were suppressed."""

    def page(
        self, after: str = "", limit: int = 100, *, reason: SuppressionReason | None = None
    ) -> SuppressionPage:
        """Return at most ``limit`` entries by address, from the first after ``after``.

        Every entry that exists from the first page to the last is on exactly one page.
        """

    def count(self) -> int:
        """Return the number of suppressed addresses."""

    def note_soft_bounce(
        self, address: str, event: str, window: timedelta, *, kind: Counted = "soft"
    ) -> int:
        """Count a bounce that may pass, or a bounce that suppresses the address anew.

        Args:
            event: id of the e-mail or report; the same event counts once.
            window: older events are forgotten.

        Returns:
            The number of events in the window, with this one.
        """


@dataclass(frozen=True, slots=True)
class BounceRules:
    """What bounces do.

    Attributes:
        soft_limit: number of soft bounces in ``soft_window`` that suppress an address.
        keep_full: how long a full mailbox is suppressed for the first, second, … time; the last
            repeats.
        keep_bounced: the same for a missing mailbox; None for ever.
        memory: how long it is remembered that an address was suppressed.
    """

    soft_limit: int = 3
    soft_window: timedelta = timedelta(days=30)
    keep_full: Sequence[timedelta | None] = (timedelta(days=30), timedelta(days=90))
    # A provider with an outage may say "no such user": the first time is not for ever.
    keep_bounced: Sequence[timedelta | None] = (timedelta(days=7), timedelta(days=90), None)
    memory: timedelta = timedelta(days=400)


def rule_of(status: str) -> Literal["now", "after_some", "never"]:
    """What an enhanced status says about a recipient's address.

    Returns:
        "now" if there is no such user or domain (5.1.1, .2, .3, .6, .10), "after_some" for a
        mailbox that is full or disabled (5.2.2, 4.2.2, 5.2.1), "never" for everything else: 5.7.x
        is a policy.
    """
    match = _STATUS.match(status)
    if match is None:
        return "never"
    kind, subject, detail = map(int, match.groups())
    if (kind, subject) == (5, 1) and detail in _NO_SUCH_ADDRESS:
        return "now"
    if (kind, subject, detail) in _MAY_PASS:
        return "after_some"
    return "never"


def note_bounce(
    store: Suppressions,
    address: str,
    status: str,
    event: str,
    rules: BounceRules = BounceRules(),
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> Suppression | None:
    """Suppress an address if its bounce says so.

    Args:
        status: the enhanced status, such as ``5.1.1``.
        event: id of the e-mail or report: an event that is reported again counts once.

    Returns:
        The entry; None if this bounce suppressed nothing.
    """
    rule = rule_of(status)
    if rule == "never":
        return None
    count, keeps, reason = 1, rules.keep_bounced, SuppressionReason.BOUNCED
    if rule == "after_some":
        count = store.note_soft_bounce(address, event, rules.soft_window)
        if count < rules.soft_limit:
            return None
        keeps, reason = rules.keep_full, SuppressionReason.FULL
    known = store.find([address]).get(address)
    if known is not None and WEIGHTS[known.reason] >= WEIGHTS[reason]:
        # An e-mail that was on its way already: counts, but extends nothing.
        return _add(store, Suppression(address, reason, None, known.expires, 1, status))
    time = store.note_soft_bounce(address, event, rules.memory, kind="suppressed")
    keep = keeps[min(time, len(keeps)) - 1]
    expires = None if keep is None else datetime.fromtimestamp(clock.time(), UTC) + keep
    return _add(store, Suppression(address, reason, None, expires, count, status))


def note_complaint(store: Suppressions, address: str) -> Suppression:
    """Suppress an address whose owner complained, for ever."""
    return _add(store, Suppression(address, SuppressionReason.COMPLAINT))


def _add(store: Suppressions, entry: Suppression) -> Suppression:
    store.add([entry])
    return store.find([entry.address]).get(entry.address, entry)


def check_address(address: str) -> str:
    """Check that an address is in its normal form, as far as that is visible.

    Raises:
        ValueError: it is not.
    """
    local, at, domain = address.rpartition("@")
    if not (local and at and domain) or _NOT_PLAIN.search(address):
        raise ValueError("expected an e-mail address without spaces, got something else")
    if len(address) > _MAX_ADDRESS:
        raise ValueError(f"expected an e-mail address of at most {_MAX_ADDRESS} characters")
    if address != address.lower() or not domain.isascii():
        raise ValueError(
            "expected an e-mail address in its normal form, got one with upper case or with a "
            "domain that is not ASCII: use normal() of sinks/smtp/address.py"
        )
    return address


def check_entry(entry: Suppression) -> Suppression:
    """Check an entry that is to be added.

    Raises:
        ValueError: a part is invalid.
    """
    check_address(entry.address)
    if entry.status and not _STATUS.match(entry.status):
        raise ValueError("expected an enhanced status such as 5.1.1, got something else")
    if not 1 <= entry.count <= MAX_COUNT:
        raise ValueError(f"expected a count from 1 to {MAX_COUNT}, got {entry.count}")
    for when in (entry.since, entry.expires):
        if when is not None and when.tzinfo is None:
            raise ValueError("expected times of a suppression with their time zone, got none")
    return replace(entry, reason=SuppressionReason(entry.reason))


class MemorySuppressions:
    """Suppressed addresses in this process's memory. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = Lock()
        self._entries: dict[str, Suppression] = {}
        self._soft: dict[tuple[str, Counted], dict[str, datetime]] = {}

    def find(self, addresses: Iterable[str]) -> dict[str, Suppression]:
        names = [check_address(address) for address in addresses]
        with self._lock:
            found = {name: self._get(name) for name in names}
        return {name: entry for name, entry in found.items() if entry is not None}

    def add(self, entries: Iterable[Suppression]) -> int:
        checked, new = [check_entry(entry) for entry in entries], 0
        with self._lock:
            now = self._now()
            for entry in checked:
                if entry.expires is not None and entry.expires <= now:
                    continue
                entry = replace(entry, since=now if entry.since is None else entry.since)
                old = self._get(entry.address)
                new += old is None
                self._entries[entry.address] = entry if old is None else _merged(old, entry)
        return new

    def remove(self, addresses: Iterable[str]) -> int:
        names = [check_address(address) for address in addresses]
        with self._lock:
            for name in names:
                self._soft.pop((name, "soft"), None)
                self._soft.pop((name, "suppressed"), None)
            removed = {name for name in names if self._get(name) is not None}
            for name in removed:
                del self._entries[name]
            return len(removed)

    def page(
        self, after: str = "", limit: int = 100, *, reason: SuppressionReason | None = None
    ) -> SuppressionPage:
        with self._lock:
            left = (name for name in list(self._entries) if name > after and self._get(name))
            names = nsmallest(
                limit + 1,
                (name for name in left if reason in (None, self._entries[name].reason)),
            )
            entries = [self._entries[name] for name in names[:limit]]
        return SuppressionPage(entries, entries[-1].address if len(names) > limit else None)

    def count(self) -> int:
        with self._lock:
            return sum(self._get(name) is not None for name in list(self._entries))

    def note_soft_bounce(
        self, address: str, event: str, window: timedelta, *, kind: Counted = "soft"
    ) -> int:
        key = check_address(address), kind
        with self._lock:
            now = self._now()
            events = {
                one: when for one, when in self._soft.get(key, {}).items() if when > now - window
            }
            events.setdefault(event, now)
            self._soft.pop(key, None)
            self._soft[key] = events
            if len(self._soft) > _MAX_SOFT:
                del self._soft[next(iter(self._soft))]
            return len(events)

    def _now(self) -> datetime:
        return from_millis(int(self._clock.time() * 1000))

    def _get(self, address: str) -> Suppression | None:
        entry = self._entries.get(address)
        if entry is None or entry.expires is None or entry.expires > self._now():
            return entry
        del self._entries[address]
        return None


def _merged(old: Suppression, new: Suppression) -> Suppression:
    weightier = new if WEIGHTS[new.reason] >= WEIGHTS[old.reason] else old
    ends = old.expires and new.expires and max(old.expires, new.expires)
    is_same = old.since == new.since
    count = max(old.count, new.count) if is_same else min(old.count + new.count, MAX_COUNT)
    return replace(old, reason=weightier.reason, status=weightier.status, expires=ends, count=count)
