"""Run one measurement of one contender and print a JSON object.

    python bench/contender.py CONTENDER MEASURE '{"count": 10000, …}'

All contenders use the same server, the same messages and the same durability.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emails import emails
from events import record, unavailable
from started import cpu_seconds, idle, log_lines, started
from started_sinks import delivered, recorded
from submissions import autosave, submit
from webhooks import deliver, latency, load

PAYLOAD = {"answers": {f"question_{number}": "x" * 20 for number in range(7)}}  # 300 bytes of JSON


def make(contender: str) -> Any:
    """Create the broker of a contender, for example ``redis-ours`` or ``rabbitmq-quorum``."""
    kind, _, variant = contender.partition("-")
    url = os.environ[f"FORMRELAY_TEST_{kind.upper()}_URL"]
    if kind == "redis":
        if variant == "ours":
            from formrelay.brokers.redis.broker import RedisBroker

            return RedisBroker(url, namespace="ours")
        from dramatiq.brokers.redis import RedisBroker as Stock

        return Stock(url=url, namespace="stock")
    if variant in ("ours", "quorum"):
        from formrelay.brokers.rabbitmq.broker import RabbitBroker

        if variant == "quorum":  # in another virtual host: its delay queues are quorum queues too
            return RabbitBroker(url.replace("%2F", "quorum"), queue_type="quorum")
        return RabbitBroker(url, queue_type="classic")
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    # By default without confirms; the comparison of publishing turns them on.
    return RabbitmqBroker(url=url, confirm_delivery=variant == "confirmed")


def start_worker(broker: Any, threads: int) -> None:
    from dramatiq import Worker

    Worker(broker, worker_threads=threads).start()


def is_ours(contender: str) -> bool:
    return contender.endswith(("-ours", "-quorum"))


class Run:
    """A broker with one actor that counts its messages."""

    def __init__(self, contender: str, queue: str) -> None:
        import dramatiq

        self.contender, self.queue = contender, queue
        self.broker = make(contender)
        self.done = count()
        self.finished = 0.0
        self.expected = 0

        def work(_payload: Any) -> None:
            if next(self.done) + 1 == self.expected:
                self.finished = time.perf_counter()

        self.actor = dramatiq.actor(work, broker=self.broker, queue_name=queue)

    def fill(self, number: int, **options: Any) -> None:
        messages = (
            self.actor.message_with_options(args=(PAYLOAD,), **options) for _ in range(number)
        )
        if is_ours(self.contender):
            self.broker.enqueue_many(messages)
        else:
            for message in messages:
                self.broker.enqueue(message)

    def wait(self, timeout: float = 300) -> None:
        deadline = time.perf_counter() + timeout
        while not self.finished:
            if time.perf_counter() > deadline:
                raise SystemExit(f"{self.contender}: expected to be done within {timeout} s")
            time.sleep(0.01)


def drain(contender: str, *, queue: str, count: int, threads: int, behind: int = 0) -> Any:
    """Messages per second from a full queue; ``behind`` more messages stay on the queue."""
    run = Run(contender, queue)
    run.expected = count
    run.fill(count + behind)
    start, cpu = time.perf_counter(), time.process_time()
    start_worker(run.broker, threads)
    run.wait()
    seconds = run.finished - start
    used = time.process_time() - cpu
    return {"per_second": count / seconds, "cpu_us": used / count * 1e6}


def shared(contender: str, *, queue: str, count: int, threads: int, processes: int) -> Any:
    """Messages per second of several processes that drain one queue."""
    Run(contender, queue).fill(count)
    start_at = time.monotonic() + 2  # time for every process to import
    options = {"queue": queue, "threads": threads, "start_at": start_at}
    command = [sys.executable, __file__, contender, "share", json.dumps(options)]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    results = [json.loads(child.communicate()[0]) for child in children]
    done = sum(result["count"] for result in results)
    if done < count:
        raise SystemExit(f"{contender}: expected {count} messages to run, got {done}")
    seconds = max(result["last"] for result in results) - start_at
    least = min(result["count"] for result in results) / count * 100
    return {"per_second": done / seconds, "least_share": least}


def share(contender: str, *, queue: str, threads: int, start_at: float) -> Any:
    """One process of :func:`shared`; ends when no message has come for a second."""
    run = Run(contender, queue)
    seen = last = 0.0

    def work(_payload: Any) -> None:
        nonlocal last
        next(run.done)
        last = time.monotonic()

    run.actor.fn = work
    time.sleep(max(0.0, start_at - time.monotonic()))
    start_worker(run.broker, threads)
    while seen != last or time.monotonic() - max(last, start_at) < 1:
        seen = last
        time.sleep(0.1)
    return {"count": next(run.done), "last": last}


def enqueue(contender: str, *, queue: str, count: int) -> Any:
    """Messages per second that the broker accepts."""
    run = Run(contender, queue)
    run.fill(1)  # connect and declare before the measurement
    start = time.perf_counter()
    run.fill(count)
    return {"per_second": count / (time.perf_counter() - start)}


def send(contender: str, *, queue: str, count: int, threads: int) -> Any:
    """Messages per second that threads send, each waiting until its message is stored.

    Returns:
        Also the CPU time per message of this process and of RabbitMQ, in µs.
    """
    run = Run(contender, queue)
    run.fill(1)
    server = int(os.environ["FORMRELAY_TEST_RABBITMQ_PID"])
    start, cpu, server_cpu = time.perf_counter(), time.process_time(), cpu_seconds(server)
    with ThreadPoolExecutor(threads) as pool:
        sent = [pool.submit(_send, run.actor, count // threads) for _ in range(threads)]
    for each in sent:
        each.result()
    return {
        "per_second": count / (time.perf_counter() - start),
        "cpu_us": (time.process_time() - cpu) / count * 1e6,
        "server_cpu_us": (cpu_seconds(server) - server_cpu) / count * 1e6,
    }


def _send(actor: Any, count: int) -> None:
    for _ in range(count):
        actor.send(PAYLOAD)


def pickup(contender: str, *, queue: str, count: int) -> Any:
    """Milliseconds from ``send()`` until an idle worker runs the job."""
    import dramatiq

    broker = make(contender)
    took: list[float] = []

    def work(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1000)

    actor = dramatiq.actor(work, broker=broker, queue_name=queue)
    actor.send(time.perf_counter())
    start_worker(broker, 4)
    for number in range(count + 1):
        while len(took) <= number:
            time.sleep(0.001)
        # Long enough to be idle, and not in step with a polling interval.
        time.sleep(0.15 + 0.01 * (number * 7 % 13))
        actor.send(time.perf_counter())
    took = took[1:]
    return {"p50_ms": median(took), "p99_ms": quantiles(took, n=100)[98]}


def delayed(contender: str, *, queue: str, far: int, near: int, delay_ms: int) -> Any:
    """Lateness of ``near`` messages, due soon, behind ``far`` messages due in one hour."""
    import dramatiq

    broker = make(contender)
    late: list[float] = []

    def work(due: float) -> None:
        late.append((time.time() - due) * 1000)

    actor = dramatiq.actor(work, broker=broker, queue_name=queue)
    hour = int((time.time() + 3600) * 1000)
    if is_ours(contender):
        broker.enqueue_many(actor.message_with_options(args=(0.0,), eta=hour) for _ in range(far))
    else:
        for _ in range(far):
            actor.send_with_options(args=(0.0,), delay=3_600_000)
    for _ in range(near):
        actor.send_with_options(args=(time.time() + delay_ms / 1000,), delay=delay_ms)
    before = resident()
    start_worker(broker, 8)
    deadline = time.monotonic() + delay_ms / 1000 + 15
    most = before
    while len(late) < near and time.monotonic() < deadline:
        most = max(most, resident())
        time.sleep(0.05)
    return {
        "ran": len(late),
        "worst_late_ms": max(late) if late else None,
        "grew_mb": (max(most, resident()) - before) / 1e6,
    }


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASURES: dict[str, Callable[..., Any]] = {
    "deliver": deliver,
    "latency": latency,
    "load": load,
    "started": started,
    "log_lines": log_lines,
    "idle": idle,
    "delivered": delivered,
    "recorded": recorded,
    "drain": drain,
    "shared": shared,
    "share": share,
    "enqueue": enqueue,
    "send": send,
    "pickup": pickup,
    "delayed": delayed,
    "record": record,
    "unavailable": unavailable,
    "submit": submit,
    "autosave": autosave,
    "emails": emails,
}


def main() -> None:
    import logging

    logging.basicConfig(level=logging.CRITICAL)
    contender, measure, options = sys.argv[1:]
    print(json.dumps(MEASURES[measure](contender, **json.loads(options))), flush=True)
    # Skip the orderly stop: it is not measured.
    os._exit(0)


if __name__ == "__main__":
    main()
