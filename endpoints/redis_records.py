"""The records of all processes, in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from ..brokers.redis.connection import translated
from ..brokers.redis.keys import DEFAULT_NAMESPACE
from .old_records import OldRecords
from .records import EndpointRecord, Report, Rules, merged

if TYPE_CHECKING:
    from collections.abc import Iterator

#: After the namespace: a hash of records by endpoint, as JSON; only of those against which
#: anything speaks.
RECORDS = ":__endpoints__"
#: Those of them that are disabled, for everybody to ask once a second.
DISABLED = ":__endpoints__.disabled"
#: Before the webhook-id of what was delivered, where that is kept.
DELIVERED = ":__delivered__."


class RedisRecords:
    """See the module.

    Args:
        client: of redis-py, shared with whoever made it.
        where: its address, for error messages.
        namespace: of the keys. The default one takes over those of older versions.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: Redis does not do it.
    """

    def __init__(self, client: Any, where: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._client = client
        self._where = where
        self._records, self._disabled = namespace + RECORDS, namespace + DISABLED
        self._delivered = namespace + DELIVERED
        self._old = OldRecords(client) if namespace == DEFAULT_NAMESPACE else None

    @contextmanager
    def _talk(self) -> Iterator[Any]:
        with translated(self._where):
            if self._old is not None and self._old.is_due():
                self.adopt(self._old)
            yield self._client

    def adopt(self, old: OldRecords) -> int:
        """Take over the records of an older version; returns how many there were.

        A newer record is kept, except that a disabled endpoint stays disabled.
        """
        count = 0
        for ids in old.ids():

            def take_over(pipeline: Any, ids: list[bytes] = ids) -> None:
                theirs = old.get(pipeline, ids)
                ours = pipeline.hmget(self._records, ids)
                pipeline.multi()
                for raw, raw_ours in zip(theirs, ours, strict=True):
                    if raw is None:
                        continue
                    record = _record(raw)
                    if raw_ours is None:
                        self._put(pipeline, record)
                    elif record.disabled_at is not None:
                        found = replace(
                            _record(raw_ours), disabled_at=record.disabled_at, why=record.why
                        )
                        self._put(pipeline, found)
                old.delete(pipeline, ids)

            self._client.transaction(take_over, self._records, old.key)
            count += len(ids)
        return count

    def report(self, reports: Iterable[Report], rules: Rules) -> list[EndpointRecord]:
        reports = list(reports)
        newly: list[EndpointRecord] = []

        def take_in(pipeline: Any) -> None:
            newly.clear()  # it may run again: another process was at it meanwhile
            before = pipeline.hmget(self._records, [report.id for report in reports])
            pipeline.multi()
            for report, raw in zip(reports, before, strict=True):
                known = _record(raw) if raw else None
                found = merged(known, report, rules)
                self._put(pipeline, found)
                if found.disabled_at is not None and not (known and known.disabled_at):
                    newly.append(found)

        if reports:
            with self._talk() as client:
                client.transaction(take_in, self._records)
        return newly

    def disabled(self) -> frozenset[str]:
        with self._talk() as client:
            return frozenset(id.decode() for id in client.smembers(self._disabled))

    def all(self) -> list[EndpointRecord]:
        with self._talk() as client:
            found = [_record(raw) for raw in client.hvals(self._records)]
        return sorted(found, key=lambda one: one.id)

    def disable(self, id: str, *, why: str, now: float) -> bool:
        def put(pipeline: Any) -> bool:
            raw = pipeline.hget(self._records, id)
            found = _record(raw) if raw else EndpointRecord(id, "")
            pipeline.multi()
            if found.disabled_at is not None:
                return False
            self._put(pipeline, replace(found, disabled_at=now, why=why))
            return True

        with self._talk() as client:
            return bool(client.transaction(put, self._records, value_from_callable=True))

    def enable(self, id: str) -> bool:
        with self._talk() as client:
            pipeline = client.pipeline(transaction=True)
            pipeline.hdel(self._records, id)
            pipeline.srem(self._disabled, id)
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

    def _put(self, pipeline: Any, record: EndpointRecord) -> None:
        if not record.failures and record.disabled_at is None:
            pipeline.hdel(self._records, record.id)  # nothing speaks against it
            return
        pipeline.hset(self._records, record.id, orjson.dumps(record.to_json()))
        if record.disabled_at is not None:
            pipeline.sadd(self._disabled, record.id)


def _record(raw: bytes) -> EndpointRecord:
    return EndpointRecord(**orjson.loads(raw))
