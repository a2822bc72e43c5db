"""Dramatiq's metrics. They are served on the port in `dramatiq_prom_port`, 9191 by default."""

import asyncio
import time
from datetime import timedelta

import dramatiq
from dramatiq.middleware.prometheus import Prometheus

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow

broker = get_broker()
broker.add_middleware(Prometheus())


@dramatiq.actor(broker=broker, queue_name="measured", max_retries=1, min_backoff=100)
def measure(milliseconds, due=0, error=None):
    if time.time() < due:
        raise NotNow("not due yet", after=timedelta(seconds=0.1))  # a deferral is no error
    time.sleep(milliseconds / 1000)
    if error:
        raise ValueError(error)


@dramatiq.actor(broker=broker, queue_name="measured", max_retries=1, min_backoff=100, in_flight=100)
async def measure_async(milliseconds, due=0, error=None):
    await asyncio.sleep(milliseconds / 1000)
    measure(0, due, error)
