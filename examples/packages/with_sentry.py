"""An event in Sentry for each failed attempt. SENTRY_DSN names the project."""

import asyncio
import time
from datetime import timedelta

import dramatiq
import sentry_sdk
from sentry_sdk.integrations.dramatiq import DramatiqIntegration

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow

sentry_sdk.init(
    integrations=[DramatiqIntegration()],
    include_local_variables=False,  # the arguments of an actor are local variables
    max_request_body_size="never",  # an event contains the message with its arguments otherwise
)


@dramatiq.actor(broker=get_broker(), queue_name="orders", max_retries=0)
def bill(order):
    if time.time() < order["due"]:
        raise NotNow("not due yet", after=timedelta(seconds=0.1))  # a deferral is no event
    if order["total"] < 0:
        raise ValueError("negative total")  # the text of an error is sent


@dramatiq.actor(broker=get_broker(), queue_name="orders", max_retries=0, in_flight=100)
async def ship(order):
    await asyncio.sleep(0.01)
    bill(order)
