"""Deliveries of signed webhooks a second; measured by :mod:`contender`.

Ours is the whole of ``deliver_webhook``: schema, gate and breaker of the endpoint, signature,
checked address, delivery log, JSON log line. Stock Dramatiq's is what people write: an actor with a
``requests.Session`` a thread that signs and posts.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - nobody's
BODY = {"answers": {f"question_{number}": "x" * 20 for number in range(7)}}


class Receiving:
    """A receiver in a process of its own."""

    def __init__(self, pause_ms: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("receiver.py")), str(pause_ms / 1000)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def end(self) -> Any:
        """How many webhooks arrived that said when they were sent, and how late they were."""
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
    """Webhooks a second that the endpoints that answer got, from a full queue.

    Args:
        pause_ms: before a receiver answers.
        hanging: so many of the endpoints never answer.
    """
    from dramatiq import Worker
    from dramatiq.middleware import Middleware

    if contender == "arithmetic":
        return {"per_second": threads / (pause_ms / 1000)}
    receiver = Receiving(pause_ms)
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
    # What is delivered at a time is not a matter of threads with us.
    worker_threads = threads if make is _stock else min(threads, 10)
    Worker(broker, queues={queue}, worker_threads=worker_threads).start()
    if not finished.wait(300):
        raise SystemExit(f"{contender}: not done within 300 s")
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    receiver.end()
    return {"per_second": expected / seconds, "cpu_us": used / count * 1e6}


def late(
    contender: str,
    *,
    queue: str,
    seconds: int,
    rate: int,
    threads: int,
    endpoints: int,
    hanging: int,
) -> Any:
    """Milliseconds from ``send()`` until endpoints that answer have a webhook, under a load."""
    from dramatiq import Worker

    receiver = Receiving()
    urls = addresses(receiver.url, endpoints, hanging)
    broker, _ = _ours(queue, 0, urls, threads)
    Worker(broker, queues={queue}, worker_threads=threads).start()
    options = {"queue": queue, "seconds": seconds, "rate": rate, "urls": urls}
    command = [sys.executable, str(Path(__file__).with_name("contender.py")), contender, "load"]
    sent = json.loads(subprocess.check_output([*command, json.dumps(options)]))["sent"]
    time.sleep(2)  # what has not arrived by then is counted as lost below
    found = receiver.end()
    expected = sent * (endpoints - hanging) // endpoints
    return {"p99_ms": found["p99_ms"], "not_there_percent": 100 - 100 * found["arrived"] / expected}


def load(_contender: str, *, queue: str, seconds: int, rate: int, urls: list[str]) -> Any:
    """Send so many webhooks a second, to all addresses in turn."""
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
    """Of so many endpoints; the first of them never answer."""
    return [f"{url}/{'hang' if n < hanging else 'hook'}/{n}" for n in range(endpoints)]


def _ours(queue: str, count: int, urls: list[str], threads: int) -> tuple[Any, Any]:
    os.environ.update(
        BROKER="redis",
        REDIS_URL=os.environ["FORMRELAY_TEST_REDIS_URL"],
        BROKER_NAMESPACE="ours",
        WORKER_CONCURRENCY=str(threads),
        WEBHOOK_QUEUE=queue,
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        # Recorded for ClickHouse: put on the queue of events, which nobody empties here.
        WEBHOOK_DELIVERY_LOG="true",
        LOG_LEVEL="info",
    )
    from formrelay.actors import deliver_webhook
    from formrelay.brokers import get_broker
    from formrelay.config import get_settings
    from formrelay.ops.boot import calm_garbage_collector
    from formrelay.ops.logs import setup_logging

    root = logging.getLogger()
    log = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lasts
    root.handlers[:] = [logging.StreamHandler(log)]
    setup_logging(get_settings().logging)
    calm_garbage_collector()  # as a worker does when it starts
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
