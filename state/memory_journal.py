"""Journals in the memory of a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock

from ..core.clock import SYSTEM_CLOCK, Clock
from .digests import digest
from .idempotency import Running
from .journal import (
    KEEP,
    LOCK,
    ClaimLost,
    JournalRecord,
    RecipientOutcome,
    Run,
    check_notes,
    check_text,
    journal_id,
    make_record,
    names_of,
    new_run,
)
from .millis import from_millis

#: Maximum number of journals in memory; the oldest without a claim are dropped.
_MAX_JOURNALS = 10_000
_NO_NOTES: Mapping[str, str] = {}
_WAITING = RecipientOutcome("waiting")


@dataclass(slots=True)
class _Entry:
    owner: str = ""
    claimed_until: float = 0.0
    ends_at: float = 0.0
    attempts: int = 0
    began_at: datetime | None = None
    outcomes: dict[str, RecipientOutcome] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def record(self, names: Mapping[str, str]) -> JournalRecord:
        """The journal at this moment."""
        notes = dict(self.notes)
        return make_record(self.outcomes, names, notes, self.attempts, self.began_at)

    def lose_marks(self, at: datetime) -> None:
        """Turn marks into unknown outcomes."""
        for name, one in self.outcomes.items():
            if one.state == "sending":
                unknowns = one.unknowns + 1
                self.outcomes[name] = replace(one, state="unknown", at=at, unknowns=unknowns)


class MemoryJournal:
    """Journals in this process's memory. Thread-safe."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, keep: timedelta = KEEP) -> None:
        self._clock = clock
        self._keep = keep.total_seconds()
        self._lock = Lock()
        self._entries: dict[str, _Entry] = {}
        self._names: dict[str, str] = {}

    def begin(
        self,
        job: str,
        recipients: Iterable[str],
        *,
        lock: timedelta = LOCK,
        notes: Mapping[str, str] = _NO_NOTES,
    ) -> Run | Running:
        checked = check_notes(notes)
        run = new_run(self, digest(job), lock)
        names = names_of(run.key, recipients)
        with self._lock:
            now = self._clock.monotonic()
            entry = self._find(run.key) or _Entry()
            if entry.owner and entry.claimed_until > now:
                return Running(timedelta(seconds=entry.claimed_until - now))
            entry.lose_marks(self._time())
            entry.owner, entry.claimed_until = run.owner, now + lock.total_seconds()
            entry.attempts += 1
            entry.began_at = entry.began_at or self._time()
            for name in names.values():
                entry.outcomes.setdefault(name, RecipientOutcome("waiting"))
            entry.notes = checked | entry.notes
            self._put(run.key, entry)
            run.record = entry.record(names)
        return run

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        with self._lock:
            entry = self._find(key)
            if entry is None or entry.owner != owner:
                return False
            entry.claimed_until = self._clock.monotonic() + lock.total_seconds()
            return True

    def sending(
        self, run: Run, recipients: Iterable[str], *, notes: Mapping[str, str] = _NO_NOTES
    ) -> None:
        names = names_of(run.key, recipients).values()
        checked = check_notes(notes)
        with self._lock:
            entry = self._claimed(run)
            if any(entry.outcomes.get(name, _WAITING).state == "accepted" for name in names):
                raise ClaimLost
            for name in names:
                self._set(entry, name, RecipientOutcome("sending"))
            entry.notes |= checked
            self._put(run.key, entry)

    def settle(
        self, run: Run, outcomes: Mapping[str, RecipientOutcome], *, end: bool = False
    ) -> bool:
        names = names_of(run.key, outcomes)
        with self._lock:
            entry = self._find(run.key) or _Entry()
            is_ours = entry.owner == run.owner
            for recipient, outcome in outcomes.items():
                check_text(outcome.text)
                if is_ours or outcome.state == "accepted":
                    self._set(entry, names[recipient], outcome)
            if is_ours and end:
                entry.lose_marks(self._time())
                entry.owner = ""
            self._put(run.key, entry)
            return is_ours

    def note(self, run: Run, notes: Mapping[str, str]) -> None:
        checked = check_notes(notes)
        with self._lock:
            entry = self._claimed(run)
            entry.notes |= checked
            self._put(run.key, entry)

    def end(self, run: Run) -> None:
        with self._lock:
            entry = self._find(run.key)
            if entry is not None and entry.owner == run.owner:
                entry.lose_marks(self._time())
                entry.owner = ""

    def read(self, job: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        return self.find(journal_id(job), recipients)

    def find(self, id: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        names = names_of(id, recipients)
        with self._lock:
            entry = self._find(id)
            return None if entry is None else entry.record(names)

    def mark(self, id: str, notes: Mapping[str, str]) -> None:
        checked = check_notes(notes)
        with self._lock:
            entry = self._find(id)
            if entry is not None:
                entry.notes |= checked

    def name(self, run: Run, other: str) -> None:
        with self._lock:
            self._names.pop(other, None)
            self._names[other] = run.key
            if len(self._names) > _MAX_JOURNALS:
                del self._names[next(iter(self._names))]

    def named(self, other: str) -> str | None:
        with self._lock:
            return self._names.get(other)

    def _set(self, entry: _Entry, name: str, outcome: RecipientOutcome) -> None:
        old = entry.outcomes.get(name, _WAITING)
        if old.state == "accepted":
            return
        unknowns = old.unknowns + (outcome.state == "unknown" != old.state)
        entry.outcomes[name] = RecipientOutcome(outcome.state, outcome.text, self._time(), unknowns)

    def _time(self) -> datetime:
        return from_millis(int(self._clock.time() * 1000))

    def _claimed(self, run: Run) -> _Entry:
        entry = self._find(run.key)
        if entry is None or entry.owner != run.owner:
            raise ClaimLost
        return entry

    def _find(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.ends_at <= self._clock.monotonic():
            del self._entries[key]
            return None
        return entry

    def _put(self, key: str, entry: _Entry) -> None:
        entry.ends_at = self._clock.monotonic() + self._keep
        self._entries.pop(key, None)
        self._entries[key] = entry
        if len(self._entries) > _MAX_JOURNALS:
            oldest = next(iter(self._entries))
            dropped = self._entries.pop(oldest)
            if dropped.owner:  # its job may be running
                self._entries[oldest] = dropped
