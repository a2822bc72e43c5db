"""Actors whose failed attempts are events in Sentry. SENTRY_DSN names the project."""

import asyncio
import time
from datetime import timedelta

import dramatiq

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow


@dramatiq.actor(broker=get_broker(), queue_name="orders", max_retries=0)
def bill(order):
    if time.time() < order["due"]:
        raise NotNow("not due yet", after=timedelta(seconds=0.1))  # a deferral is no event
    if order["total"] < 0:
        # Logs and dead letters have this text; Sentry only with LOG_EXCEPTIONS=message.
        raise ValueError(f"negative total of {order['name']}")


@dramatiq.actor(broker=get_broker(), queue_name="orders", max_retries=0, in_flight=100)
async def ship(order):
    await asyncio.sleep(0.01)
    bill(order)
