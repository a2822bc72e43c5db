"""The records of all processes, in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ..brokers.redis.connection import translated
from .records import EndpointRecord, Report, Rules, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A hash of records by endpoint, as JSON; only of those against which anything speaks.
RECORDS = "formrelay:endpoints"
#: Those of them that are disabled, for everybody to ask once a second.
DISABLED = "formrelay:endpoints:disabled"
#: Before the webhook-id of what was delivered, where that is kept.
DELIVERED = "formrelay:delivered:"


class RedisRecords:
    """See the module.

    Args:
        client: of redis-py, shared with whoever made it.
        where: its address, for error messages.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: Redis does not do it.
    """

    def __init__(self, client: Any, where: str) -> None:
        self._client = client
        self._where = where

    @contextmanager
    def _talk(self) -> Iterator[Any]:
        with translated(self._where):
            yield self._client

    def report(self, reports: Iterable[Report], rules: Rules) -> list[EndpointRecord]:
        reports = list(reports)
        newly: list[EndpointRecord] = []

        def take_in(pipeline: Any) -> None:
            newly.clear()  # it may run again: another process was at it meanwhile
            before = pipeline.hmget(RECORDS, [report.id for report in reports])
            pipeline.multi()
            for report, raw in zip(reports, before, strict=True):
                known = _record(raw) if raw else None
                found = merged(known, report, rules)
                _put(pipeline, found)
                if found.disabled_at is not None and not (known and known.disabled_at):
                    newly.append(found)

        if reports:
            with self._talk() as client:
                client.transaction(take_in, RECORDS)
        return newly

    def disabled(self) -> frozenset[str]:
        with self._talk() as client:
            return frozenset(id.decode() for id in client.smembers(DISABLED))

    def all(self) -> list[EndpointRecord]:
        with self._talk() as client:
            found = [_record(raw) for raw in client.hvals(RECORDS)]
        return sorted(found, key=lambda one: one.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        def put(pipeline: Any) -> bool:
            raw = pipeline.hget(RECORDS, id)
            found = _record(raw) if raw else EndpointRecord(id, "")
            pipeline.multi()
            if found.disabled_at is not None:
                return False
            _put(pipeline, replace(found, disabled_at=now, why=why))
            return True

        with self._talk() as client:
            return bool(client.transaction(put, RECORDS, value_from_callable=True))

    def enable(self, id: str) -> bool:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.hdel(RECORDS, id)
            pipeline.srem(DISABLED, id)
            return bool(pipeline.execute()[0])

    def keep(self, delivered: Mapping[str, bytes], lasts: timedelta) -> None:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=False)
            for id, job in delivered.items():
                pipeline.set(DELIVERED + id, job, px=lasts)
            pipeline.execute()

    def kept(self, id: str) -> bytes | None:
        with self._talk() as client:
            found: bytes | None = client.get(DELIVERED + id)
            return found


def _record(raw: bytes) -> EndpointRecord:
    return EndpointRecord(**orjson.loads(raw))


def _put(pipeline: Any, record: EndpointRecord) -> None:
    if not record.failures and record.disabled_at is None:
        pipeline.hdel(RECORDS, record.id)  # nothing speaks against it
        return
    pipeline.hset(RECORDS, record.id, orjson.dumps(record.to_json()))
    if record.disabled_at is not None:
        pipeline.sadd(DISABLED, record.id)
