"""The endpoint registry in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ...state import DEFAULT_NAMESPACE
from ...state.redis.connection import translated
from .old_registry import OldRegistry
from .registry import Changes, DeliveryReport, DisableRules, EndpointRecord, Position, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Maximum length of the stream. A worker that is further behind reads the whole set.
_MOST_CHANGES = 10_000
#: Names of the field that holds the endpoint's id in an entry of the stream.
_DISABLED, _ENABLED = b"disabled", b"enabled"
#: The position before the first entry of the stream.
_START: Position = ()

#: Suffixes of the namespace. A hash from endpoint id to its record as JSON; it has only failing and
#: disabled endpoints.
RECORDS = ":__endpoints__"
#: A set of the ids of disabled endpoints.
DISABLED = ":__endpoints__.disabled"
#: A stream of the additions to and removals from that set. Every worker reads it once a second; a
#: worker that has missed entries reads the set.
CHANGES = ":__endpoints__.changes"
#: Prefix of the keys of delivered jobs, before the webhook-id.
DELIVERED = ":__delivered__."


class RedisRegistry:
    """The endpoint registry in Redis, shared by all processes.

    Args:
        client: client of redis-py; not closed by the registry.
        where: address of the server, for error messages.
        namespace: prefix of the keys. The default namespace adopts the records of older versions.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: Redis did not execute the command.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._client = client
        self._where = where
        self._records, self._disabled = namespace + RECORDS, namespace + DISABLED
        self._changes, self._delivered = namespace + CHANGES, namespace + DELIVERED
        self._old = OldRegistry(client) if namespace == DEFAULT_NAMESPACE else None

    @contextmanager
    def _talk(self) -> Iterator[Any]:
        with translated(self._where):
            if self._old is not None and self._old.is_due():
                self.adopt(self._old)
            yield self._client

    def adopt(self, old: OldRegistry) -> int:
        """Move the records of an older version to this registry; returns their number.

        An existing record is kept, but becomes disabled if the old record is.
        """
        count = 0
        for ids in old.ids():

            def take_over(pipeline: Any, ids: list[bytes] = ids) -> None:
                theirs = old.get(pipeline, ids)
                ours = pipeline.hmget(self._records, ids)
                pipeline.multi()
                for id, raw, raw_ours in zip(map(_text, ids), theirs, ours, strict=True):
                    if raw is None:
                        continue
                    record = EndpointRecord.from_json(id, raw)
                    known = EndpointRecord.from_json(id, raw_ours) if raw_ours else None
                    if known is None:
                        self._put(pipeline, None, record)
                    elif record.disabled_at is not None:
                        found = replace(known, disabled_at=record.disabled_at, why=record.why)
                        self._put(pipeline, known, found)
                old.delete(pipeline, ids)

            self._client.transaction(take_over, self._records, old.key)
            count += len(ids)
        return count

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        reports = list(reports)
        newly: list[EndpointRecord] = []

        def take_in(pipeline: Any) -> None:
            newly.clear()  # redis-py calls this again if another process changed the records
            before = pipeline.hmget(self._records, [report.id for report in reports])
            pipeline.multi()
            for report, raw in zip(reports, before, strict=True):
                known = EndpointRecord.from_json(report.id, raw) if raw else None
                found = merged(known, report, rules)
                if self._put(pipeline, known, found):
                    newly.append(found)

        if reports:
            with self._talk() as client:
                client.transaction(take_in, self._records)
        return newly

    def disabled(self) -> frozenset[str]:
        with self._talk() as client:
            return frozenset(map(_text, client.smembers(self._disabled)))

    def changes(self, since: Position | None) -> Changes:
        """See :class:`~formrelay.actors.webhooks.registry.EndpointRegistry`.

        A position is the last entry read from the stream, with its fields. If the stream no
        longer has that entry, the whole set is read: Redis was flushed, was restored from an older
        state, failed over to a replica without the entry, or has trimmed it.
        """
        if since is None:
            return self._whole()
        start = since[0] if since else "-"
        with self._talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.xrange(self._changes, min=start, count=None if since else 1)
            pipeline.scard(self._disabled)
            entries, count = pipeline.execute()
        if (entries[0] if entries else _START) != since:
            return self._whole()
        disabled: dict[str, bool] = {}
        for _, fields in entries[1:]:
            for field, id in fields.items():
                disabled[_text(id)] = field == _DISABLED  # the last change of an endpoint counts
        return Changes(
            since,
            entries[-1] if entries else _START,
            [id for id, is_disabled in disabled.items() if is_disabled],
            [id for id, is_disabled in disabled.items() if not is_disabled],
            count,
        )

    def _whole(self) -> Changes:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.smembers(self._disabled)
            pipeline.xrevrange(self._changes, count=1)
            members, entries = pipeline.execute()
        disabled = set(map(_text, members))
        return Changes(None, entries[0] if entries else _START, disabled, (), len(disabled))

    def all(self) -> list[EndpointRecord]:
        with self._talk() as client:
            raw = client.hgetall(self._records)
        found = [EndpointRecord.from_json(_text(id), record) for id, record in raw.items()]
        return sorted(found, key=lambda one: one.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        def put(pipeline: Any) -> bool:
            raw = pipeline.hget(self._records, id)
            found = EndpointRecord.from_json(id, raw) if raw else EndpointRecord(id, "")
            pipeline.multi()
            if found.disabled_at is not None:
                return False
            return self._put(pipeline, found, replace(found, disabled_at=now, why=why))

        with self._talk() as client:
            return bool(client.transaction(put, self._records, value_from_callable=True))

    def enable(self, id: str) -> bool:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.hdel(self._records, id)
            pipeline.srem(self._disabled, id)
            self._tell(pipeline, _ENABLED, id)
            return bool(pipeline.execute()[0])

    def keep(self, delivered: Mapping[str, bytes], lasts: timedelta) -> None:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=False)
            for id, job in delivered.items():
                pipeline.set(self._delivered + id, job, px=lasts)
            pipeline.execute()

    def kept(self, id: str) -> bytes | None:
        with self._talk() as client:
            found: bytes | None = client.get(self._delivered + id)
            if found is None and self._old is not None:
                found = self._old.delivered(id)
            return found

    def _put(self, pipeline: Any, known: EndpointRecord | None, record: EndpointRecord) -> bool:
        """Replace the record ``known``; returns whether this disables the endpoint."""
        if record.is_clean:
            if known is not None:
                pipeline.hdel(self._records, record.id)
            return False
        pipeline.hset(self._records, record.id, orjson.dumps(record.to_json()))
        if record.disabled_at is None or (known and known.disabled_at is not None):
            return False
        pipeline.sadd(self._disabled, record.id)
        self._tell(pipeline, _DISABLED, record.id)
        return True

    def _tell(self, pipeline: Any, what: bytes, id: str) -> None:
        pipeline.xadd(self._changes, {what: id}, maxlen=_MOST_CHANGES, approximate=True)


def _text(id: bytes) -> str:
    return id.decode(errors="backslashreplace")
