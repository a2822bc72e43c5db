"""Sends a job of each kind to the actors of with_opentelemetry, in the span ``request``.

Program with a tracer provider of its own: prints the ids of the messages by name, as JSON.
"""

from __future__ import annotations

import json
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from formrelay.examples.packages import with_opentelemetry as example

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

found = {}
with trace.get_tracer("sender").start_as_current_span("request"):
    for actor in (example.call, example.call_async):
        name = actor.actor_name
        found[f"{name} done"] = actor.send(500).message_id
        found[f"{name} failed"] = actor.send(10, error="secret").message_id
        found[f"{name} deferred"] = actor.send(10, due=time.time() + 1.5).message_id
provider.shutdown()
print(json.dumps(found))
