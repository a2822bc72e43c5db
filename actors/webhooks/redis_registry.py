"""The endpoint registry in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson

from ...state import DEFAULT_NAMESPACE
from ...state.redis.connection import translated
from .old_registry import OldRegistry
from .registry import Changes, DeliveryReport, DisableRules, EndpointRecord, Position, merged

#: Maximum length of the stream of changes.
_MAX_CHANGES = 10_000
#: The field of an entry of the stream; its value is the endpoint's id.
_DISABLED, _ENABLED = b"disabled", b"enabled"
#: The position before the first entry of the stream.
_START: Position = ()

# Names of keys, after the namespace.
#: Hash: the records of failing and disabled endpoints as JSON, by endpoint id.
RECORDS = ":__endpoints__"
#: Set: ids of the disabled endpoints.
DISABLED = ":__endpoints__.disabled"
#: Stream: the changes of that set. Every worker reads it once a second; a worker that has missed
#: changes reads the set.
CHANGES = ":__endpoints__.changes"
#: String: a delivered job; the key ends with the webhook-id.
DELIVERED = ":__delivered__."
#: String: webhook-id of the newest delivered job of an endpoint; the key ends with the endpoint's
#: id. No webhook-id contains a dot.
NEWEST = DELIVERED + "of."


class RedisRegistry:
    """The endpoint registry in Redis, shared by all processes.

    Args:
        client: client of redis-py; not closed by the registry.
        address: address of the server, for error messages.
        namespace: prefix of the keys. The default namespace adopts the records of older versions.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: Redis did not execute the command.
    """

    def __init__(self, client: Any, address: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._client = client
        self._address = address
        self._records, self._disabled = namespace + RECORDS, namespace + DISABLED
        self._changes, self._delivered = namespace + CHANGES, namespace + DELIVERED
        self._newest = namespace + NEWEST
        self._old = OldRegistry(client) if namespace == DEFAULT_NAMESPACE else None

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """The client, with its errors translated; adopts old records first."""
        with translated(self._address):
            if self._old is not None and self._old.is_due():
                self.adopt(self._old)
            yield self._client

    def adopt(self, old: OldRegistry) -> int:
        """Move the records of an older version to this registry; returns their number.

        A record that this registry already has is kept; it becomes disabled if the old record is.
        """
        count = 0
        for ids in old.ids():

            def move(pipeline: Any, ids: list[bytes] = ids) -> None:
                old_records = old.get(pipeline, ids)
                new_records = pipeline.hmget(self._records, ids)
                pipeline.multi()
                for id, old_raw, raw in zip(map(_text, ids), old_records, new_records, strict=True):
                    if old_raw is None:
                        continue
                    record = EndpointRecord.from_json(id, old_raw)
                    known = EndpointRecord.from_json(id, raw) if raw else None
                    if known is None:
                        self._put(pipeline, None, record)
                    elif record.disabled_at is not None:
                        record = replace(known, disabled_at=record.disabled_at, why=record.why)
                        self._put(pipeline, known, record)
                old.delete(pipeline, ids)

            self._client.transaction(move, self._records, old.key)
            count += len(ids)
        return count

    def report(
        self, reports: Iterable[DeliveryReport], rules: DisableRules
    ) -> list[EndpointRecord]:
        reports = list(reports)
        disabled: list[EndpointRecord] = []

        def add(pipeline: Any) -> None:
            disabled.clear()  # redis-py calls this again if another process changed the records
            stored = pipeline.hmget(self._records, [report.id for report in reports])
            pipeline.multi()
            for report, raw in zip(reports, stored, strict=True):
                known = EndpointRecord.from_json(report.id, raw) if raw else None
                record = merged(known, report, rules)
                if self._put(pipeline, known, record):
                    disabled.append(record)

        if reports:
            with self._connected() as client:
                client.transaction(add, self._records)
        return disabled

    def disabled(self) -> frozenset[str]:
        with self._connected() as client:
            return frozenset(map(_text, client.smembers(self._disabled)))

    def changes(self, since: Position | None) -> Changes:
        """See :class:`~formrelay.actors.webhooks.registry.EndpointRegistry`.

        A position is the last entry read from the stream, with its fields. If the stream no longer
        has that entry (Redis was flushed or restored, failed over to a replica without the entry,
        or has trimmed the stream), the whole set is read.
        """
        if since is None:
            return self._whole_set()
        start = since[0] if since else "-"
        with self._connected() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.xrange(self._changes, min=start, count=None if since else 1)
            pipeline.scard(self._disabled)
            entries, count = pipeline.execute()
        if (entries[0] if entries else _START) != since:
            return self._whole_set()
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

    def _whole_set(self) -> Changes:
        with self._connected() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.smembers(self._disabled)
            pipeline.xrevrange(self._changes, count=1)
            members, entries = pipeline.execute()
        disabled = set(map(_text, members))
        return Changes(None, entries[0] if entries else _START, disabled, (), len(disabled))

    def all(self) -> list[EndpointRecord]:
        with self._connected() as client:
            raw = client.hgetall(self._records)
        records = [EndpointRecord.from_json(_text(id), record) for id, record in raw.items()]
        return sorted(records, key=lambda record: record.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        def put(pipeline: Any) -> bool:
            raw = pipeline.hget(self._records, id)
            record = EndpointRecord.from_json(id, raw) if raw else EndpointRecord(id, "")
            pipeline.multi()
            if record.disabled_at is not None:
                return False
            return self._put(pipeline, record, replace(record, disabled_at=now, why=why))

        with self._connected() as client:
            return bool(client.transaction(put, self._records, value_from_callable=True))

    def enable(self, id: str) -> bool:
        with self._connected() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.hdel(self._records, id)
            pipeline.srem(self._disabled, id)
            self._add_change(pipeline, _ENABLED, id)
            return bool(pipeline.execute()[0])

    def keep(
        self,
        delivered: Mapping[str, bytes],
        ttl: timedelta,
        *,
        newest: Mapping[str, str] | None = None,
    ) -> None:
        with self._connected() as client:
            pipeline = client.pipeline(transaction=False)
            for id, job in delivered.items():
                pipeline.set(self._delivered + id, job, px=ttl)
            for endpoint, id in (newest or {}).items():
                pipeline.set(self._newest + endpoint, id, px=ttl)
            pipeline.execute()

    def kept(self, id: str) -> bytes | None:
        with self._connected() as client:
            found: bytes | None = client.get(self._delivered + id)
            if found is None and self._old is not None:
                found = self._old.delivered(id)
            return found

    def newest_kept(self, ids: Sequence[str]) -> dict[str, str]:
        with self._connected() as client:
            found = client.mget([self._newest + id for id in ids]) if ids else []
        return {id: _text(kept) for id, kept in zip(ids, found, strict=True) if kept is not None}

    def _put(self, pipeline: Any, known: EndpointRecord | None, record: EndpointRecord) -> bool:
        """Replace the record ``known``; returns whether this disables the endpoint."""
        if record.is_healthy:
            if known is not None:
                pipeline.hdel(self._records, record.id)
            return False
        pipeline.hset(self._records, record.id, orjson.dumps(record.to_json()))
        if record.disabled_at is None or (known and known.disabled_at is not None):
            return False
        pipeline.sadd(self._disabled, record.id)
        self._add_change(pipeline, _DISABLED, record.id)
        return True

    def _add_change(self, pipeline: Any, field: bytes, id: str) -> None:
        pipeline.xadd(self._changes, {field: id}, maxlen=_MAX_CHANGES, approximate=True)


def _text(id: bytes) -> str:
    return id.decode(errors="backslashreplace")
