"""Measures analytics events per second into a real ClickHouse.

The limit is one process without a queue that decodes, validates and inserts the same messages in
blocks of the same size.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Any
from uuid import UUID

from ours import configure

BLOCK = 10_000
_TYPES = ("form.viewed", "form.started", "question.answered", "form.completed")
_BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def events(number: int) -> Iterator[dict[str, Any]]:
    """Yield events as publishers send them, about 350 bytes of JSON each."""
    rng = random.Random(number)  # noqa: S311 - the same events for every contender
    for n in range(number):
        at = _BEGIN + timedelta(milliseconds=rng.randrange(20 * 86_400_000))
        yield {
            "eventId": str(UUID(int=rng.getrandbits(128), version=4)),
            "type": _TYPES[n % 4],
            "formId": f"form-{n % 50}",
            "sessionId": f"session-{n // 8}",
            "occurredAt": at.isoformat(timespec="milliseconds"),
            "properties": {
                "field": f"question_{n % 30}",
                "position": n % 30,
                "device": {"kind": "phone", "width": 390},
                "referrer": "https://example.org/some/page",
            },
        }


def messages(number: int, many: int) -> Iterator[Any]:
    """Yield messages with ``many`` events each."""
    from formrelay.actors import record_events

    if many == 1:
        yield from (record_events.message(event) for event in events(number))
    else:
        yield from (record_events.message(list(chunk)) for chunk in batched(events(number), many))


def record(contender: str, *, queue: str, count: int, threads: int, many: int) -> Any:
    """Events per second from a full queue until ClickHouse has all of them."""
    from dramatiq import Worker

    measure = {"limit": _limit, "stock": _stock}.get(contender)
    if measure is not None:
        return measure(queue, count, many)
    _settings(queue)
    from formrelay.brokers import get_broker
    from formrelay.middleware.process_tuning import tune_garbage_collector

    broker = get_broker()
    broker.enqueue_many(messages(count, many))
    finished, watch = _watch(broker, -(-count // many))
    tune_garbage_collector()  # as a worker does when it starts
    client = _clickhouse()
    before = _resident()
    start, cpu = time.perf_counter(), time.process_time()
    Worker(broker, queues={queue}, worker_threads=threads).start()
    if not finished.wait(300):
        raise SystemExit(f"{contender}: expected to be done within 300 s")
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    _check(client, count)
    grew = (max(watch) - before) / 1e6
    return {"per_second": count / seconds, "cpu_us": used / count * 1e6, "grew_mb": grew}


def unavailable(_contender: str, *, queue: str, count: int, threads: int, seconds: int) -> Any:
    """CPU and memory of a worker while ClickHouse is unavailable and events wait."""
    from dramatiq import Worker

    _settings(queue, clickhouse="clickhouse://127.0.0.1:1")
    from formrelay.brokers import get_broker
    from formrelay.middleware.process_tuning import tune_garbage_collector

    broker = get_broker()
    broker.enqueue_many(messages(count, 1))
    tune_garbage_collector()
    before = _resident()
    Worker(broker, queues={queue}, worker_threads=threads).start()
    time.sleep(3)  # until the worker has noticed it
    began, cpu = _resident(), time.process_time()
    time.sleep(seconds)
    counts = broker.counts(queue)
    return {
        "cpu_percent": (time.process_time() - cpu) / seconds * 100,
        "first_mb": (began - before) / 1e6,
        "grew_mb": (_resident() - began) / 1e6,
        "dead": counts.dead,
        "waiting": counts.waiting,
    }


def _limit(queue: str, number: int, many: int) -> Any:
    _settings(queue)
    from formrelay.actors import record_events
    from formrelay.brokers.envelope import decode, encode
    from formrelay.middleware.process_tuning import tune_garbage_collector

    bodies = [encode(message) for message in messages(number, many)]
    tune_garbage_collector()
    client, actor = _clickhouse(), record_events
    start, cpu = time.perf_counter(), time.process_time()
    for block in batched(bodies, max(1, BLOCK // many)):
        jobs = [decode(body, queue_name=queue, job_types={}).kwargs for body in block]
        actor(batch=jobs)
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    _check(client, number)
    return {"per_second": number / seconds, "cpu_us": used / number * 1e6}


def _stock(queue: str, number: int, _many: int) -> Any:
    """A typical actor on stock Dramatiq: inserts its event, with one client per thread."""
    import dramatiq
    from clickhouse_driver import Client
    from dramatiq import Worker
    from dramatiq.brokers.redis import RedisBroker

    _settings(queue)
    client = _clickhouse()  # migrated, and emptied
    broker = RedisBroker(url=os.environ["FORMRELAY_TEST_REDIS_URL"], namespace="stock")
    local, done, finished = threading.local(), count(1), threading.Event()

    def insert(event: dict[str, Any]) -> None:
        if not hasattr(local, "client"):
            local.client = Client.from_url(os.environ["CLICKHOUSE_URL"])
        row = {
            "event_id": event["eventId"],
            "type": event["type"],
            "form_id": event["formId"],
            "session_id": event["sessionId"],
            "occurred_at": datetime.fromisoformat(event["occurredAt"]),
            "properties": str(event["properties"]),
        }
        local.client.execute(f"INSERT INTO events ({', '.join(row)}) VALUES", [row])
        if next(done) == number:
            finished.set()

    actor = dramatiq.actor(insert, broker=broker, queue_name=queue)
    for event in events(number):
        actor.send(event)
    start = time.perf_counter()
    Worker(broker, queues={queue}, worker_threads=8).start()
    if not finished.wait(300):
        raise SystemExit("stock: expected to be done within 300 s")
    seconds = time.perf_counter() - start
    _check(client, number)
    return {"per_second": number / seconds}


def _settings(queue: str, *, clickhouse: str | None = None) -> None:
    configure(
        CLICKHOUSE_URL=clickhouse or os.environ["FORMRELAY_TEST_CLICKHOUSE_URL"],
        EVENT_QUEUE=queue,
        EVENT_BATCH_SIZE=str(BLOCK),
    )


def _clickhouse() -> Any:
    from formrelay.actors.resources import clickhouse
    from formrelay.sinks.clickhouse import migrate

    client = clickhouse()
    migrate.apply(client)
    client.command("TRUNCATE TABLE events")
    return client


def _check(client: Any, number: int) -> None:
    ((rows, distinct),) = client.query("SELECT count(), uniqExact(event_id) FROM events")
    if (rows, distinct) != (number, number):
        raise SystemExit(f"expected {number} rows and events, got {rows} rows of {distinct} events")


def _watch(broker: Any, expected: int) -> tuple[threading.Event, list[int]]:
    """Return an event that is set after ``expected`` messages, and the memory after each."""
    from dramatiq.middleware import Middleware

    finished, memory, done = threading.Event(), [0], [0]

    class Watch(Middleware):
        def after_process_message(
            self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            if exception is None:
                done[0] += len(getattr(message, "parts", (1,)))
                memory.append(_resident())
                if done[0] == expected:
                    finished.set()

    broker.add_middleware(Watch())
    return finished, memory


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def batched(all: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Same as ``itertools.batched`` of Python 3.12."""
    iterator = iter(all)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
