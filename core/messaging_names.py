"""The names of spans and of their attributes.

From the semantic conventions of OpenTelemetry for messaging, which are still in development:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. A change of names there is
a change of this file.
"""

from __future__ import annotations

#: Name of the instrumentation scope.
SCOPE = "formrelay"

#: Operations: the first word of a span's name, and its type.
SEND, PROCESS = "send", "process"

SYSTEM = "messaging.system"
DESTINATION = "messaging.destination.name"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
MESSAGE_ID = "messaging.message.id"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"

#: Names of formrelay.
ACTOR = "formrelay.actor"
ATTEMPT = "formrelay.attempt"
OUTCOME = "formrelay.outcome"
REASON = "formrelay.reason"
PLACES = "formrelay.error.places"


def span_name(operation: str, queue: str) -> str:
    """The name of a span: ``send webhooks``."""
    return f"{operation} {queue}"
