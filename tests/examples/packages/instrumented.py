"""Actors traced by opentelemetry-instrumentor-dramatiq; with a number, sends jobs to each."""

from __future__ import annotations

import asyncio
import sys
import time

import dramatiq
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry_instrumentor_dramatiq import DramatiqInstrumentor

from formrelay.brokers import get_broker

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
DramatiqInstrumentor().instrument()


@dramatiq.actor(broker=get_broker(), queue_name="instrumented")
def call() -> None:
    time.sleep(0.5)
    with trace.get_tracer("x").start_as_current_span("inner"):
        pass


@dramatiq.actor(broker=get_broker(), queue_name="instrumented", in_flight=100)
async def call_async() -> None:
    with trace.get_tracer("x").start_as_current_span("inner"):
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    with trace.get_tracer("x").start_as_current_span("request"):
        for actor in [call, call_async] * int(sys.argv[1]):
            actor.send()
