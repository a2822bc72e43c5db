"""A worker process that tests kill: ``python fault_worker.py URL QUEUE FILE``.

Its actors append a line to FILE for each job, so that a test knows which jobs ran even if the
process was killed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import dramatiq
from dramatiq import Worker

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.contract import BrokerOptions
from formrelay.core.errors import SinkTransient
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.state import StateRedis
from formrelay.state.idempotency import Once
from formrelay.state.redis.connection import connect_redis, redis_address
from formrelay.state.redis.idempotency import RedisIdempotencyStore

OPTIONS = BrokerOptions(heartbeat_timeout=timedelta(seconds=1.5), max_crash_deliveries=3)


def make_broker(url: str) -> RelayBroker:
    """A broker for a Redis or AMQP URL."""
    if url.startswith("amqp"):
        from formrelay.brokers.rabbitmq.broker import RabbitBroker

        return RabbitBroker(url, options=OPTIONS)
    from formrelay.brokers.redis.broker import RedisBroker

    return RedisBroker(url, options=OPTIONS)


def declare(broker: RelayBroker, queue: str, file: str) -> None:
    """Declare the actors.

    ``note`` sleeps, then writes its number. ``poison`` kills its process. ``poison_once`` kills it
    while it holds an idempotency lock, which outlasts the recovery of the message.
    """

    def write(line: str) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def note(number: int, milliseconds: int = 0) -> None:
        time.sleep(milliseconds / 1000)
        write(str(number))

    @dramatiq.actor(broker=broker, queue_name=queue)
    def poison() -> None:
        write("poison")
        os.kill(os.getpid(), signal.SIGKILL)

    if sink := os.environ.get("FORMRELAY_TEST_SINK"):
        declare_batches(broker, queue, int(sink), write)

    def store() -> RedisIdempotencyStore:
        url = os.environ["FORMRELAY_TEST_REDIS_URL"]
        write("asked")
        client = connect_redis(url, timeout=timedelta(seconds=5))
        return RedisIdempotencyStore(StateRedis(client, redis_address(url)))

    once = Once(lambda: "poison", store, lock=timedelta(seconds=5))
    dramatiq.actor(
        lambda: poison.fn(),
        actor_name="poison_once",
        broker=broker,
        queue_name=queue,
        idempotency=once,
    )


def declare_batches(
    broker: RelayBroker, queue: str, port: int, write: Callable[[str], None]
) -> None:
    """Declare ``collect``, which sends its batch to a TCP sink and waits for ``ok``."""

    @dramatiq.actor(
        broker=broker,
        queue_name=queue,
        batch_size=100,
        batch_wait=timedelta(milliseconds=200),
        policy=RetryPolicy(jitter=0, backoff=Schedule((timedelta(milliseconds=100),))),
    )
    def collect(batch: list[dict[str, int]]) -> None:
        numbers = [str(part["number"]) for part in batch]
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(" ".join(numbers).encode() + b"\n")
                is_taken = connection.recv(2) == b"ok"
        except OSError:
            is_taken = False
        if not is_taken:
            write("away")
            raise SinkTransient("the sink is away")
        for number in numbers:
            write(number)


def main() -> None:
    url, queue, file = sys.argv[1:]
    broker = make_broker(url)
    declare(broker, queue, file)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker = Worker(broker, worker_timeout=50, worker_threads=4)
    # Printed before the start, since the first message may kill the process.
    print("ready", flush=True)
    worker.start()
    while not stop.wait(1):  # a signal delivered to another thread does not wake this wait
        pass
    worker.stop(timeout=10_000)
    broker.close()


if __name__ == "__main__":
    main()
