"""The journal of jobs in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, cast

from ..digests import digest
from ..idempotency import Running
from ..journal import (
    KEEP,
    LOCK,
    ClaimLost,
    JournalRecord,
    RecipientOutcome,
    Run,
    State,
    check_notes,
    check_text,
    journal_id,
    make_record,
    names_of,
    new_run,
)
from ..millis import duration_millis, from_millis
from . import StateRedis
from .base import ScriptStore
from .client import repeated

#: Stands between the namespace and the digest of a journal's other id.
NAMES = ":__journal_names__."
_NO_NOTES: Mapping[str, str] = {}


class RedisJournal(ScriptStore):
    """Journals of all processes, by the server's clock.

    Args:
        keep: how long a journal is kept after the last change.
    """

    script = "journal.lua"
    #: Stands between the namespace and the digest of a job.
    prefix = ":__journal__."

    def __init__(self, redis: StateRedis, *, keep: timedelta = KEEP) -> None:
        super().__init__(redis)
        self._names = redis.namespace + NAMES
        self._keep = duration_millis(keep)

    def begin(
        self,
        job: str,
        recipients: Iterable[str],
        *,
        lock: timedelta = LOCK,
        notes: Mapping[str, str] = _NO_NOTES,
    ) -> Run | Running:
        run = new_run(self, digest(job), lock)
        names = names_of(run.key, recipients)
        args = [len(notes), *_pairs(notes), *names.values()]
        found = self._run("begin", run.key, run.owner, lock, *args)
        if isinstance(found, int):
            return Running(timedelta(milliseconds=found))
        run.record = _record(dict(zip(found[::2], found[1::2], strict=True)), names)
        return run

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        return bool(self._run("renew", key, owner, lock))

    def sending(
        self, run: Run, recipients: Iterable[str], *, notes: Mapping[str, str] = _NO_NOTES
    ) -> None:
        names = names_of(run.key, recipients)
        args = [len(notes), *_pairs(notes), *names.values()]
        if not self._run("sending", run.key, run.owner, None, *args):
            raise ClaimLost

    def settle(
        self, run: Run, outcomes: Mapping[str, RecipientOutcome], *, end: bool = False
    ) -> bool:
        names = names_of(run.key, outcomes)
        args = [
            part
            for recipient, outcome in outcomes.items()
            for part in (names[recipient], outcome.state, check_text(outcome.text))
        ]
        return bool(self._run("settle", run.key, run.owner, None, int(end), *args))

    def note(self, run: Run, notes: Mapping[str, str]) -> None:
        if not self._run("note", run.key, run.owner, None, *_pairs(notes)):
            raise ClaimLost

    def end(self, run: Run) -> None:
        self._run("end", run.key, run.owner, None)

    def read(self, job: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        return self.find(journal_id(job), recipients)

    def find(self, id: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        with self._connected() as client:
            found = client.hgetall(self._prefix + id)
        return _record(found, names_of(id, recipients)) if found else None

    def mark(self, id: str, notes: Mapping[str, str]) -> None:
        self._run("mark", id, "", None, *_pairs(notes))

    def name(self, run: Run, other: str) -> None:
        key = self._names + digest(other)
        with self._connected() as client:
            repeated(lambda _: client.set(key, run.key, px=self._keep))

    def named(self, other: str) -> str | None:
        with self._connected() as client:
            found = client.get(self._names + digest(other))
        return None if found is None else found.decode()

    def _run(self, what: str, key: str, owner: str, lock: timedelta | None, *args: Any) -> Any:
        lasts = "" if lock is None else duration_millis(lock)
        return self._run_script([self._prefix + key], what, owner, lasts, self._keep, *args)


def _pairs(notes: Mapping[str, str]) -> list[str]:
    return [part for pair in check_notes(notes).items() for part in pair]


def _record(found: Mapping[bytes, bytes], names: Mapping[str, str]) -> JournalRecord:
    fields = {name.decode(): value.decode() for name, value in found.items()}
    outcomes = {name[1:]: _outcome(text) for name, text in fields.items() if name[0] == "r"}
    notes = {name[1:]: text for name, text in fields.items() if name[0] == "n"}
    began = from_millis(int(fields["began"])) if "began" in fields else None
    return make_record(outcomes, names, notes, int(fields.get("attempts", 0)), began)


def _outcome(stored: str) -> RecipientOutcome:
    state, unknowns, at, text = stored.split(" ", 3)
    when = from_millis(int(at)) if at != "0" else None
    return RecipientOutcome(cast(State, state), text, when, int(unknowns))
