"""Deliveries of signed webhooks a second; measured by :mod:`contender`.

Ours is the whole of ``deliver_webhook``: schema, gate and breaker of the endpoint, signature,
checked address, JSON log line. Stock Dramatiq's is what people write: an actor with a
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


def deliver(
    contender: str, *, queue: str, count: int, threads: int, endpoints: int, pause_ms: int
) -> Any:
    """Webhooks a second that a receiver got, from a full queue."""
    from dramatiq import Worker
    from dramatiq.middleware import Middleware

    receiver = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("receiver.py")), str(pause_ms / 1000)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    url = f"http://127.0.0.1:{int(receiver.stdout.readline())}"
    finished = threading.Event()
    done = itertools.count(1)

    class Counted(Middleware):
        def after_process_message(
            self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            if exception is None and next(done) == count:
                finished.set()

    make = _ours if contender.endswith("ours") else _stock
    broker, messages = make(queue, count, [f"{url}/hook/{n}" for n in range(endpoints)], threads)
    broker.add_middleware(Counted())
    for message in messages:
        broker.enqueue(message)
    start, cpu = time.perf_counter(), time.process_time()
    Worker(broker, queues={queue}, worker_threads=threads).start()
    if not finished.wait(300):
        raise SystemExit(f"{contender}: not done within 300 s")
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    receiver.terminate()
    return {"per_second": count / seconds, "cpu_us": used / count * 1e6}


def _ours(queue: str, count: int, urls: list[str], threads: int) -> tuple[Any, Any]:
    os.environ.update(
        BROKER="redis",
        REDIS_URL=os.environ["FORMRELAY_TEST_REDIS_URL"],
        BROKER_NAMESPACE="ours",
        WORKER_CONCURRENCY=str(threads),
        WEBHOOK_QUEUE=queue,
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        LOG_LEVEL="info",
    )
    from formrelay.actors import deliver_webhook
    from formrelay.brokers import get_broker
    from formrelay.config import get_settings
    from formrelay.ops.logs import setup_logging

    root = logging.getLogger()
    log = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the process lasts
    root.handlers[:] = [logging.StreamHandler(log)]
    setup_logging(get_settings().logging)
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
