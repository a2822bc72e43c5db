"""Actors with spans of their own. OTEL_EXPORTER_OTLP_ENDPOINT gets the spans of the worker."""

import asyncio
import time
from datetime import timedelta

import dramatiq
from opentelemetry import trace

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow

tracer = trace.get_tracer("calls")


@dramatiq.actor(broker=get_broker(), queue_name="calls", max_retries=0)
def call(milliseconds, due=0, error=None):
    if time.time() < due:
        raise NotNow("not due yet", after=timedelta(seconds=0.1))
    with tracer.start_as_current_span("dial"):
        time.sleep(milliseconds / 1000)
    if error:
        raise ConnectionError(error)


@dramatiq.actor(broker=get_broker(), queue_name="calls", max_retries=0, in_flight=100)
async def call_async(milliseconds, due=0, error=None):
    await asyncio.sleep(milliseconds / 1000)
    call(0, due, error)
