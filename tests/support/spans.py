"""The spans that a local collector got by OTLP over HTTP."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.actors.receiver import Receiver

ERROR = 2
PRODUCER, CONSUMER = 4, 5


class Spans:
    """The spans that a collector got so far."""

    def __init__(self, collector: Receiver) -> None:
        self.all: list[Any] = []
        self.services: set[str] = set()
        for request in collector.of("/v1/traces"):
            told = ExportTraceServiceRequest.FromString(request.body)
            for resource in told.resource_spans:
                attributes = {each.key: each.value for each in resource.resource.attributes}
                self.services.add(attributes["service.name"].string_value)
                for scope in resource.scope_spans:
                    self.all += scope.spans
        self.text = b"".join(request.body for request in collector.requests)

    def named(self, name: str) -> list[Any]:
        """The spans of a name, in the order in which they ended."""
        found = (span for span in self.all if span.name == name)
        return sorted(found, key=lambda span: span.end_time_unix_nano)

    def of(self, name: str, actor: str) -> list[Any]:
        """The spans of a name that are about an actor."""
        return [each for each in self.named(name) if attribute(each, "formrelay.actor") == actor]

    def parent(self, span: Any) -> Any:
        """The parent of a span, which must be in the same trace."""
        (parent,) = (each for each in self.all if each.span_id == span.parent_span_id)
        assert parent.trace_id == span.trace_id
        return parent


def attribute(span: Any, name: str) -> Any:
    """The value of an attribute; None without it."""
    for each in span.attributes:
        if each.key == name:
            kind = each.value.WhichOneof("value")
            return getattr(each.value, kind)
    return None


def links(span: Any) -> list[tuple[bytes, bytes]]:
    """Trace id and span id of each link."""
    return [(link.trace_id, link.span_id) for link in span.links]


def milliseconds(span: Any) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
