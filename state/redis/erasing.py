"""Looks at all values of the stores in Redis, and deletes the values about a person."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..digests import digest
from ..journal import journal_id, names_of
from . import StateRedis
from .base import ScriptStore
from .idempotency import RedisIdempotencyStore
from .journal import NAMES, RedisJournal
from .results import RedisResultStore

#: Number of keys that Redis looks at in one step of a scan.
_SCANNED = 1_000
#: Maximum number of values that are read in one call: a kept webhook may have a megabyte.
_READ = 50
#: Names of places.
RESULTS, IDEMPOTENCY, JOURNALS = "results", "idempotency", "journals"


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step through the keys of one place.

    Attributes:
        looked_at: number of values.
        erased: number that was erased, or would be.
        open: number of journals of e-mails that may still be sent to others; they stay.
    """

    place: str
    looked_at: int
    erased: int
    open: int = 0


class StoreEraser(ScriptStore):
    """Finds and deletes values of the stores of one namespace.

    Args:
        is_about: whether JSON is about the person.
        address: the address of the person in its normal form; None without one.
        more: further places: prefix of their keys after the namespace, by name.
    """

    script = "erase.lua"
    prefix = ":__"

    def __init__(
        self,
        redis: StateRedis,
        is_about: Callable[[bytes], bool],
        *,
        address: str | None = None,
        more: Mapping[str, str],
    ) -> None:
        super().__init__(redis)
        self._is_about = is_about
        self._address = address
        places = {
            **more,
            RESULTS: RedisResultStore.prefix,
            IDEMPOTENCY: RedisIdempotencyStore.prefix,
        }
        if address is not None:
            places[JOURNALS] = RedisJournal.prefix
        self._places = {redis.namespace + prefix: name for name, prefix in places.items()}

    @property
    def places(self) -> list[str]:
        """Names of the places that are looked at."""
        return list(self._places.values())

    def steps(self, *, dry_run: bool) -> Iterator[StoredStep]:
        """Look at all values in steps, and erase those about the person."""
        for place, keys in self._keys():
            if place == JOURNALS:
                yield self._in_journals(keys, dry_run)
            else:
                yield self._among_values(place, keys, dry_run)

    def forget_jobs(
        self, ids: Sequence[str], journals: Sequence[str], names: Sequence[str], keys: Sequence[str]
    ) -> None:
        """Delete results, journals and idempotency results of jobs that were erased.

        Args:
            ids: ids of the jobs, which name their results.
            journals: names of e-mails (:func:`..journal.job_key`).
            names: further names of their journals.
            keys: digests of idempotency keys; a lock is kept.
        """
        namespace = self._redis.namespace
        finished = [f"{namespace}{RedisIdempotencyStore.prefix}{key}" for key in keys]
        gone = [
            *(f"{namespace}{RedisResultStore.prefix}{id}" for id in ids),
            *(f"{namespace}{RedisJournal.prefix}{journal_id(job)}" for job in journals),
            *(f"{namespace}{NAMES}{digest(name)}" for name in names),
        ]
        with self._connected() as client:
            if gone:
                client.delete(*gone)
            values = zip(finished, client.mget(finished) if finished else [], strict=True)
        self._delete([(key, value) for key, value in values if value and value[:1] == b"r"])

    def compact(self) -> None:
        """Let Redis rewrite its append-only file, without the values that were deleted."""
        with self._connected() as client:
            client.bgrewriteaof()

    def _keys(self) -> Iterator[tuple[str, list[str]]]:
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._prefix) + "*"
        cursor = 0
        while True:
            with self._connected() as client:
                cursor, page = client.scan(cursor, match=pattern, count=_SCANNED)
            found: dict[str, list[str]] = {}
            for raw in page:
                key = raw.decode(errors="surrogateescape")
                for prefix, place in self._places.items():
                    if key.startswith(prefix):
                        found.setdefault(place, []).append(key)
            for place, keys in found.items():
                for first in range(0, len(keys), _READ):
                    yield place, keys[first : first + _READ]
            if not cursor:
                return

    def _among_values(self, place: str, keys: list[str], dry_run: bool) -> StoredStep:
        with self._connected() as client:
            values = client.mget([key.encode(errors="surrogateescape") for key in keys])
        found = [
            (key, value)
            for key, value in zip(keys, values, strict=True)
            if value is not None and self._is_about(self._json(place, value))
        ]
        return StoredStep(place, len(keys), len(found) if dry_run else self._delete(found))

    @staticmethod
    def _json(place: str, value: bytes) -> bytes:
        if place != IDEMPOTENCY:
            return value
        return value[1:] if value[:1] == b"r" else b"null"  # a lock

    def _delete(self, found: Sequence[tuple[str, bytes]]) -> int:
        if not found:
            return 0
        keys = [key.encode(errors="surrogateescape") for key, _ in found]
        digests = [hashlib.sha1(value, usedforsecurity=False).hexdigest() for _, value in found]
        return sum(self._run_script(keys, "values", *digests))  # type: ignore[arg-type]

    def _in_journals(self, keys: list[str], dry_run: bool) -> StoredStep:
        assert self._address is not None
        prefix = self._redis.namespace + RedisJournal.prefix
        fields = [
            "r" + names_of(key.removeprefix(prefix), [self._address])[self._address] for key in keys
        ]
        found = self._run_script(keys, "journals", int(dry_run), *fields)
        return StoredStep(JOURNALS, len(keys), found.count(1), open=found.count(2))
