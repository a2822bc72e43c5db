"""Measures deliveries of signed webhooks per second.

formrelay runs all of ``deliver_webhook``: schema, concurrency limiter and circuit breaker of the
endpoint, signature, address check, delivery log and JSON log line. Stock Dramatiq runs a typical
actor that signs and posts with one ``requests.Session`` per thread.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ours import configure

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - an example
BODY = {"answers": {f"question_{number}": "x" * 20 for number in range(7)}}


class ReceiverProcess:
    """The receiver in a separate process.

    Args:
        done: a file that gets a byte for each webhook.
    """

    def __init__(self, pause_ms: int = 0, *, done: Path | None = None) -> None:
        program = str(Path(__file__).with_name("receiver.py"))
        files = [] if done is None else [str(done)]
        self._process = subprocess.Popen(
            [sys.executable, program, str(pause_ms / 1000), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def end(self) -> Any:
        """End the receiver; returns the number of webhooks that arrived and their latency."""
        return json.loads(self._process.communicate()[0])


def deliver(
    contender: str,
    *,
    queue: str,
    count: int,
    threads: int,
    endpoints: int,
    pause_ms: int = 0,
    hanging: int = 0,
) -> Any:
    """Webhooks per second to the endpoints that answer, from a full queue.

    Args:
        pause_ms: milliseconds before a receiver answers.
        hanging: number of endpoints that never answer.
    """
    from dramatiq import Worker
    from dramatiq.middleware import Middleware

    if contender == "arithmetic":
        return {"per_second": threads / (pause_ms / 1000)}
    receiver = ReceiverProcess(pause_ms)
    finished = threading.Event()
    done = itertools.count(1)
    expected = count * (endpoints - hanging) // endpoints

    class Counted(Middleware):
        def after_process_message(
            self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            if exception is None and next(done) == expected:
                finished.set()

    make = _ours if contender.endswith("ours") else _stock
    broker, messages = make(queue, count, addresses(receiver.url, endpoints, hanging), threads)
    broker.add_middleware(Counted())
    for message in messages:
        broker.enqueue(message)
    start, cpu = time.perf_counter(), time.process_time()
    # formrelay's deliveries need no thread each.
    worker_threads = threads if make is _stock else min(threads, 10)
    Worker(broker, queues={queue}, worker_threads=worker_threads).start()
    if not finished.wait(300):
        raise SystemExit(f"{contender}: expected to be done within 300 s")
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    receiver.end()
    return {"per_second": expected / seconds, "cpu_us": used / count * 1e6}


def latency(
    contender: str,
    *,
    queue: str,
    seconds: int,
    rate: int,
    threads: int,
    endpoints: int,
    hanging: int,
) -> Any:
    """Milliseconds from ``send()`` to delivery at the endpoints that answer, at a steady rate."""
    from dramatiq import Worker

    receiver = ReceiverProcess()
    urls = addresses(receiver.url, endpoints, hanging)
    broker, _ = _ours(queue, 0, urls, threads)
    Worker(broker, queues={queue}, worker_threads=threads).start()
    options = {"queue": queue, "seconds": seconds, "rate": rate, "urls": urls}
    command = [sys.executable, str(Path(__file__).with_name("contender.py")), contender, "load"]
    sent = json.loads(subprocess.check_output([*command, json.dumps(options)]))["sent"]
    time.sleep(2)  # webhooks that arrive later count as missing
    found = receiver.end()
    expected = sent * (endpoints - hanging) // endpoints
    if not found["arrived"]:
        raise SystemExit(f"{contender}: expected {expected} webhooks to arrive, got none")
    return {"p99_ms": found["p99_ms"], "missing_percent": 100 - 100 * found["arrived"] / expected}


def load(_contender: str, *, queue: str, seconds: int, rate: int, urls: list[str]) -> Any:
    """Send ``rate`` webhooks per second, to all addresses in turn."""
    _ours(queue, 0, urls, 10)
    from formrelay.actors import deliver_webhook

    start = time.perf_counter()
    for number in range(rate * seconds):
        wait = start + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        body = {"sent": time.time(), **BODY}
        deliver_webhook.send({"url": urls[number % len(urls)], "body": body, "secret": SECRET})
    return {"sent": rate * seconds}


def addresses(url: str, endpoints: int, hanging: int) -> list[str]:
    """URLs of the endpoints; the first ``hanging`` endpoints never answer."""
    return [f"{url}/{'hang' if n < hanging else 'hook'}/{n}" for n in range(endpoints)]


def _ours(queue: str, count: int, urls: list[str], threads: int) -> tuple[Any, Any]:
    configure(
        WORKER_CONCURRENCY=str(threads),
        WEBHOOK_QUEUE=queue,
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        # The delivery log enqueues events, which no worker handles here.
        WEBHOOK_DELIVERY_LOG="true",
    )
    from formrelay.actors import deliver_webhook
    from formrelay.brokers import get_broker
    from formrelay.middleware.process_tuning import tune_garbage_collector

    tune_garbage_collector()  # as a worker does when it starts
    deliver_webhook.declare()  # usually at its first use, but latency() sends nothing
    jobs = (
        {"url": urls[number % len(urls)], "body": BODY, "secret": SECRET} for number in range(count)
    )
    return get_broker(), (deliver_webhook.message(job) for job in jobs)


def _stock(queue: str, count: int, urls: list[str], _threads: int) -> tuple[Any, Any]:
    import dramatiq
    import requests
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=os.environ["FORMRELAY_TEST_REDIS_URL"], namespace="stock")
    local = threading.local()

    def post(url: str, body: Any, secret: str) -> None:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        data, now = json.dumps(body).encode(), str(int(time.time()))
        mac = hmac.new(secret.encode(), f"{now}.".encode() + data, hashlib.sha256)
        headers = {
            "content-type": "application/json",
            "webhook-timestamp": now,
            "webhook-signature": mac.hexdigest(),
        }
        local.session.post(url, data=data, headers=headers, timeout=20).raise_for_status()

    actor = dramatiq.actor(post, broker=broker, queue_name=queue)
    return broker, (actor.message(urls[n % len(urls)], BODY, SECRET) for n in range(count))
