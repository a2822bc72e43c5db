"""Sends a job of each kind to the actors of with_opentelemetry, in the span ``request``.

Program: prints the ids of the messages by name, as JSON.
"""

from __future__ import annotations

import json
import time

from formrelay.examples.packages import with_opentelemetry as example

found = {}
with example.tracer.start_as_current_span("request"):
    for actor in (example.call, example.call_async):
        name = actor.actor_name
        found[f"{name} done"] = actor.send(500).message_id
        found[f"{name} failed"] = actor.send(10, error="secret").message_id
        found[f"{name} deferred"] = actor.send(10, due=time.time() + 1.5).message_id
example.provider.shutdown()
print(json.dumps(found))
