"""Claims: which calls may have written a job's rows into a spreadsheet.

Every call that writes rows has a random token, and creates an entry with that token in the
spreadsheet in the same atomic step. Before the call, the worker claims its jobs with the token; the
store returns the tokens of earlier calls whose outcome is unknown. The new call also creates their
entries (a fence): if an earlier call was executed, the new call fails as a whole; otherwise the
earlier call fails as a whole, whenever it arrives. So each job's rows are written once, whichever
jobs share a call, and however often a worker is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Protocol

from ..core.clock import SYSTEM_CLOCK, Clock

#: How long a job without a known outcome is remembered: as long as a dead letter, and a week.
KEEP_OPEN = timedelta(days=37)
#: How long a job whose rows are written is remembered.
KEEP_DONE = timedelta(days=7)
#: How long the entry of a token stays if another call refers to it. Longer than any call: its claim
#: is at most 60 s old when it is sent, and Google ends it after 180 s.
FENCE = timedelta(minutes=15)
#: Number of entries of finished calls that stay in a spreadsheet.
KEEP_ENTRIES = 200
#: Maximum number of entries deleted by one call.
MAX_EVICTED = 20
#: From this number of open tokens on, a call also fences tokens of other jobs.
MANY_OPEN = 100
#: Maximum number of tokens of other jobs that one call fences.
MAX_STALE = 50


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What the store answers to a claim.

    Attributes:
        done: jobs whose rows are written. The token does not claim them.
        unknown: jobs that the store has never seen, or has forgotten.
        open: tokens of other calls that may have written rows of these jobs, or to these places,
            or may yet do so.
        evict: tokens whose entries can be deleted.
        newest: order of the newest job written to each place; 0 for none.
    """

    done: frozenset[str]
    unknown: frozenset[str]
    open: tuple[str, ...]
    evict: tuple[str, ...]
    newest: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What is known about calls to a spreadsheet.

    Attributes:
        applied: tokens of calls that were executed: all jobs they claimed are done.
        void: tokens whose entries another call has created: they can no longer be executed.
        refused: tokens of calls that were not sent, or were refused without an effect.
        done: jobs whose rows were found in the spreadsheet.
        evicted: tokens whose entries were deleted.
    """

    applied: Sequence[str] = ()
    void: Sequence[str] = ()
    refused: Sequence[str] = ()
    done: Sequence[str] = ()
    evicted: Sequence[str] = ()


class Claims(Protocol):
    """Stores claims by spreadsheet. Each call is atomic.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def claim(
        self, sheet: str, token: str, jobs: Sequence[str], places: Mapping[str, int] | None = None
    ) -> ClaimResult:
        """Claim jobs for a call that has not been sent yet.

        Args:
            sheet: id of the spreadsheet.
            token: the call's token: random text without commas.
            jobs: keys of jobs, each once.
            places: ranges that the call overwrites -> order of the newest of these jobs (a
                positive number that grows). Unlike jobs, places are never done.
        """

    def settle(self, sheet: str, facts: SheetFacts) -> None:
        """Record what is known about calls to the spreadsheet of this id."""

    def done(self, sheet: str, jobs: Iterable[str]) -> frozenset[str]:
        """Return those of these jobs whose rows are known to be written. Changes nothing."""


@dataclass(slots=True)
class _Job:
    ends_at: float
    is_done: bool = False
    tokens: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Place:
    ends_at: float
    newest: int = 0
    tokens: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    at: float
    jobs: list[str]
    places: dict[str, int]
    #: Whether another call refers to its entry.
    is_fenced: bool = False


@dataclass(slots=True)
class _Sheet:
    jobs: dict[str, _Job] = field(default_factory=dict)
    places: dict[str, _Place] = field(default_factory=dict)
    calls: dict[str, _Call] = field(default_factory=dict)
    #: Token with an entry in the spreadsheet -> time from which the entry can be deleted.
    entries: dict[str, float] = field(default_factory=dict)


class MemoryClaims:
    """Stores claims in this process's memory. Thread-safe.

    Args:
        keep_open: how long a job without a known outcome is remembered.
        keep_done: how long a job whose rows are written is remembered.
        keep_entries: number of entries of finished calls that stay in a spreadsheet; None for
            :data:`KEEP_ENTRIES`. Nobody deletes those that stay when the process ends.
    """

    def __init__(
        self,
        *,
        keep_open: timedelta = KEEP_OPEN,
        keep_done: timedelta = KEEP_DONE,
        keep_entries: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._open, self._done = keep_open.total_seconds(), keep_done.total_seconds()
        self._keep_entries = keep_entries
        self._clock = clock
        self._lock = Lock()
        self._sheets: dict[str, _Sheet] = {}

    def claim(
        self, sheet: str, token: str, jobs: Sequence[str], places: Mapping[str, int] | None = None
    ) -> ClaimResult:
        places = places or {}
        with self._lock:
            found = self._sheets.setdefault(sheet, _Sheet())
            now = self._clock.monotonic()
            self._prune(found, now)
            done = {job for job in jobs if job in found.jobs and found.jobs[job].is_done}
            unknown = {job for job in jobs if job not in found.jobs}
            mine = [job for job in jobs if job not in done]
            fenced: dict[str, None] = {}
            for job in mine:
                entry = found.jobs.setdefault(job, _Job(0))
                fenced.update(dict.fromkeys(entry.tokens))
                entry.tokens.append(token)
                entry.ends_at = now + self._open
            newest = {
                place: found.places[place].newest if place in found.places else 0
                for place in places
            }
            if mine:
                for place in places:
                    slot = found.places.setdefault(place, _Place(0))
                    fenced.update(dict.fromkeys(slot.tokens))
                    slot.tokens.append(token)
                    slot.ends_at = now + self._open
                found.calls[token] = _Call(now, mine, dict(places))
                fenced.update(dict.fromkeys(_stale(found, token, now)))
            for other in fenced:
                found.calls[other].is_fenced = True
            keep = KEEP_ENTRIES if self._keep_entries is None else self._keep_entries
            evict = tuple(_evictable(found, now, keep))
            return ClaimResult(frozenset(done), frozenset(unknown), tuple(fenced), evict, newest)

    def settle(self, sheet: str, facts: SheetFacts) -> None:
        with self._lock:
            found = self._sheets.setdefault(sheet, _Sheet())
            now = self._clock.monotonic()
            for token in facts.applied:
                call = found.calls.get(token)
                for place, order in call.places.items() if call else ():
                    if place in found.places:
                        found.places[place].newest = max(order, found.places[place].newest)
                _forget(found, token)
                for job in call.jobs if call else ():
                    found.jobs[job] = _Job(now + self._done, is_done=True)
                waits = FENCE.total_seconds() if call is None or call.is_fenced else 0
                found.entries[token] = now + waits
            for job in facts.done:
                found.jobs[job] = _Job(now + self._done, is_done=True)
            for token in facts.void:
                _forget(found, token)
                found.entries[token] = now + FENCE.total_seconds()
            for token in facts.refused:
                _forget(found, token)
            for token in facts.evicted:
                found.entries.pop(token, None)

    def done(self, sheet: str, jobs: Iterable[str]) -> frozenset[str]:
        with self._lock:
            found = self._sheets.get(sheet, _Sheet()).jobs
            now = self._clock.monotonic()
            known = {job for job in jobs if job in found}
            return frozenset(
                job for job in known if found[job].is_done and found[job].ends_at > now
            )

    def _prune(self, sheet: _Sheet, now: float) -> None:
        for job in [job for job, entry in sheet.jobs.items() if entry.ends_at <= now]:
            del sheet.jobs[job]
        for place in [place for place, slot in sheet.places.items() if slot.ends_at <= now]:
            del sheet.places[place]
        for token in [token for token, call in sheet.calls.items() if call.at + self._open <= now]:
            _forget(sheet, token)


def _forget(sheet: _Sheet, token: str) -> None:
    call = sheet.calls.pop(token, None)
    for job in call.jobs if call else ():
        entry = sheet.jobs.get(job)
        if entry is not None and token in entry.tokens:
            entry.tokens.remove(token)
    for place in call.places if call else ():
        slot = sheet.places.get(place)
        if slot is not None and token in slot.tokens:
            slot.tokens.remove(token)


def _stale(sheet: _Sheet, token: str, now: float) -> Iterator[str]:
    """Open tokens of other jobs that a call fences, so that their number does not grow."""
    if len(sheet.calls) > MANY_OPEN:
        before = now - FENCE.total_seconds()
        old = [other for other, call in sheet.calls.items() if call.at <= before]
        yield from [other for other in old if other != token][:MAX_STALE]


def _evictable(sheet: _Sheet, now: float, keep: int) -> list[str]:
    number = min(len(sheet.entries) - keep, MAX_EVICTED)
    free = sorted((at, token) for token, at in sheet.entries.items() if at <= now)
    return [token for _, token in free[: max(0, number)]]
