"""Jobs that `dramatiq_abort.abort(message_id)` aborts. ABORT_REDIS_URL carries the requests."""

import asyncio
import os
import time

import dramatiq
from dramatiq_abort import Abort, Abortable
from dramatiq_abort.backends import RedisBackend

from formrelay.brokers import get_broker

broker = get_broker()
broker.add_middleware(Abortable(backend=RedisBackend.from_url(os.environ["ABORT_REDIS_URL"])))


@dramatiq.actor(broker=broker, queue_name="exports")
def export(name, seconds):
    print(f"{name} began", flush=True)
    for _ in range(round(seconds * 10)):
        time.sleep(0.1)  # Python raises Abort between two steps, not in a system call
    print(f"{name} ended", flush=True)


@dramatiq.actor(broker=broker, queue_name="exports", in_flight=100, throws=Abort)
async def crawl(name, seconds):
    print(f"{name} began", flush=True)
    await asyncio.sleep(seconds)  # Abort ends the wait at once
    print(f"{name} ended", flush=True)
