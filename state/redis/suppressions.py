"""Suppressed addresses in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from ..digests import digest
from ..millis import duration_millis, from_millis, to_millis
from ..suppressions import (
    Counted,
    Suppression,
    SuppressionPage,
    SuppressionReason,
    check_address,
    check_entry,
)
from .base import ScriptStore

#: Stands between the namespace and the digest of an address, by what is counted: soft bounces, and
#: bounces that suppressed an address anew.
_COUNTED: dict[Counted, str] = {
    "soft": ":__soft_bounces__.",
    "suppressed": ":__suppressed_before__.",
}
#: Number of addresses in a call, each of which blocks Redis for less than a millisecond or two.
_CHUNK = 500
#: One letter each, so that the letters of weightier reasons come first.
_LETTERS = {reason: "abcde"[number] for number, reason in enumerate(SuppressionReason)}
_REASONS = {letter.encode(): reason for reason, letter in _LETTERS.items()}


class RedisSuppressions(ScriptStore):
    """Suppressed addresses of all processes, by the server's clock."""

    script = "suppressions.lua"
    #: Stands after the namespace.
    prefix = ":__suppressed__"

    def find(self, addresses: Iterable[str]) -> dict[str, Suppression]:
        names = [check_address(address) for address in addresses]
        found: dict[str, Suppression] = {}
        for some in _chunks(names):
            values = self._run("find", *map(str.encode, some))
            pairs = zip(some, values, strict=True)
            found |= {name: _parse(name, value) for name, value in pairs if value is not None}
        return found

    def add(self, entries: Iterable[Suppression]) -> int:
        checked = [check_entry(entry) for entry in entries]
        return sum(
            int(self._run("add", *(part for entry in some for part in _parts(entry))))
            for some in _chunks(checked)
        )

    def remove(self, addresses: Iterable[str]) -> int:
        names = list(dict.fromkeys(check_address(address) for address in addresses))
        removed = 0
        for some in _chunks(names):
            counted = [self._counter(kind, name) for name in some for kind in _COUNTED]
            removed += int(self._run("remove", *map(str.encode, some), more=counted))
        return removed

    def page(
        self, after: str = "", limit: int = 100, *, reason: SuppressionReason | None = None
    ) -> SuppressionPage:
        letter = "" if reason is None else _LETTERS[reason]
        has_more, next_after, found = self._run("page", after.encode(), limit, letter)
        pairs = zip(found[::2], found[1::2], strict=True)
        entries = [_parse(name.decode(), value) for name, value in pairs]
        return SuppressionPage(entries, next_after.decode() if has_more else None)

    def count(self) -> int:
        return int(self._run("count"))

    def note_soft_bounce(
        self, address: str, event: str, window: timedelta, *, kind: Counted = "soft"
    ) -> int:
        key = self._counter(kind, check_address(address))
        return int(self._run_script([key], "soft", digest(event), duration_millis(window)))

    def _run(self, what: str, *args: Any, more: Sequence[str] = ()) -> Any:
        keys = [self._prefix, f"{self._prefix}.index", f"{self._prefix}.ends"]
        return self._run_script([*keys, *more], what, *args)

    def _counter(self, kind: Counted, address: str) -> str:
        return self._redis.namespace + _COUNTED[kind] + digest(address)


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _parts(entry: Suppression) -> tuple[Any, ...]:
    since = "" if entry.since is None else to_millis(entry.since)
    expires = 0 if entry.expires is None else max(1, to_millis(entry.expires))
    letter = _LETTERS[entry.reason]
    return (entry.address.encode(), letter, since, expires, entry.count, entry.status)


def _parse(address: str, value: bytes) -> Suppression:
    letter, since, expires, count, status = value.split(b" ", 4)
    ends = None if expires == b"0" else from_millis(int(expires))
    return Suppression(
        address, _REASONS[letter], from_millis(int(since)), ends, int(count), status.decode()
    )
