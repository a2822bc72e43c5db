"""Makes spans of OpenTelemetry: one for each send and one for each attempt.

Without a tracer provider nothing is made. Spans have no payload values: names, ids, counts, types
of errors and places in the code. OpenTelemetry's exception events have the text of the error and a
stack trace, so they are switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import dramatiq
from dramatiq.middleware import Middleware

from ..core import messaging_names as names
from ..core.errors import type_name
from ..core.outcomes import Dead, Outcome, Retry
from ..core.trace_context import TraceContext, current_trace, parse
from .attempts import worst_outcome
from .causes import part_trace, trace_of
from .delivery import PREVIOUS_ATTEMPT, Batch, Delivery
from .span_api import (
    active_tracer,
    current_span_trace,
    parent_context,
    span_context,
    trace_of_span,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, Tracer

#: Maximum number of links of a span; OpenTelemetry drops more.
_MAX_LINKS = 128


class TracingBroker(Protocol):
    """The attributes of a broker that spans need.

    Attributes:
        messaging_system: the kind of its server.
        makes_spans: whether spans may be made.
    """

    messaging_system: str
    makes_spans: bool


def trace_to_send(message: dramatiq.Message[Any]) -> TraceContext | None:
    """Return the trace context to add to a message that is sent; None to add nothing."""
    trace = part_trace(message) or current_span_trace() or current_trace.get()
    return None if trace is None or trace_of(message) is not None else trace


class Sending:
    """The producer span of one call that sends messages; a context manager.

    A message with a trace of its own (given by the sender, or of a part of a batch) stays in it:
    the span of one message is a child there, the span of many messages links to it.

    Args:
        is_one: whether the call sends one message.
    """

    def __init__(
        self, tracer: Tracer, system: str, message: dramatiq.Message[Any], *, is_one: bool
    ) -> None:
        from opentelemetry.trace import SpanKind

        parent = here = current_span_trace() or current_trace.get()
        own = trace_of(message) or part_trace(message)
        if is_one and own is not None and (here is None or here.trace_id != own.trace_id):
            parent = own
        self._is_one, self._links, self.count = is_one, 0, 0
        self.span = tracer.start_span(
            names.span_name(names.SEND, message.queue_name),
            parent_context(parent),
            kind=SpanKind.PRODUCER,
            attributes={
                names.SYSTEM: system,
                names.DESTINATION: message.queue_name,
                names.OPERATION_NAME: names.SEND,
                names.OPERATION_TYPE: names.SEND,
                names.ACTOR: message.actor_name,
            },
        )
        self._trace = trace_of_span(self.span)
        if is_one:
            self.span.set_attribute(names.MESSAGE_ID, message.message_id)

    def trace_to_send(self, message: dramatiq.Message[Any]) -> TraceContext | None:
        """Return the trace context to add to a message; None to add nothing."""
        if self._is_one or self._trace is None:
            return self._trace
        own = trace_of(message)
        found = own or part_trace(message)
        if found is None or found.trace_id == self._trace.trace_id:
            return self._trace
        if self._links < _MAX_LINKS:
            self._links += 1
            self.span.add_link(span_context(found))
        return None if own is not None else found

    def __enter__(self) -> Sending:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_one:
            self.span.set_attribute(names.BATCH_COUNT, self.count)
        if error is not None:
            _fail(self.span, type_name(error))
        self.span.end()


def begin_sending(
    broker: TracingBroker, message: dramatiq.Message[Any], *, is_one: bool
) -> Sending | None:
    """Begin the span of a call that sends messages; None without a tracer provider."""
    tracer = active_tracer() if broker.makes_spans else None
    if tracer is None:
        return None
    with suppress(Exception):  # of the program's sampler or exporter: the message is sent
        return Sending(tracer, broker.messaging_system, message, is_one=is_one)
    return None


class Tracing(Middleware):
    """Makes the consumer span of each attempt whose actor is called.

    The span is current in the context of the attempt, also after its end: what hooks after the
    attempt send belongs to it. Each attempt has its own context, so the span need not be detached
    (and could not, in the hooks that run later in a copy of the context).
    """

    def before_process_message(
        self, broker: dramatiq.Broker, message: dramatiq.MessageProxy
    ) -> None:
        if not isinstance(message, Delivery) or not getattr(broker, "makes_spans", False):
            return
        tracer = active_tracer()
        if tracer is None:
            return
        from opentelemetry import context
        from opentelemetry.trace import set_span_in_context

        message.span = span = _start(tracer, broker, message)
        context.attach(set_span_in_context(span))
        trace = trace_of_span(span)
        if trace is not None:
            message.trace = trace
            message.attempt_traceparent = trace.traceparent
            current_trace.set(trace)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        span = message.span if isinstance(message, Delivery) else None
        if span is None:
            return
        assert isinstance(message, Delivery)
        message.span = None
        outcome = worst_outcome(message)
        if outcome is not None:
            _describe(span, outcome)
        span.end()

    after_skip_message = after_process_message  # a deferral is no error


def _start(tracer: Tracer, broker: Any, delivery: Delivery) -> Span:
    from opentelemetry.trace import SpanKind

    parts = delivery.parts if isinstance(delivery, Batch) else (delivery,)
    is_one = len(parts) == 1
    attributes: dict[str, Any] = {
        names.SYSTEM: broker.messaging_system,
        names.DESTINATION: delivery.queue_name,
        names.OPERATION_NAME: names.PROCESS,
        names.OPERATION_TYPE: names.PROCESS,
        names.ACTOR: delivery.actor_name,
        names.ATTEMPT: delivery.attempt,
    }
    if is_one:
        attributes[names.MESSAGE_ID] = parts[0].message_id
    if isinstance(delivery, Batch):
        attributes[names.BATCH_COUNT] = len(parts)
    return tracer.start_span(
        names.span_name(names.PROCESS, delivery.queue_name),
        parent_context(trace_of(parts[0].message) if is_one else None),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=list(_links(delivery, parts)),
    )


def _links(delivery: Delivery, parts: Sequence[Delivery]) -> Iterator[Link]:
    """Links to the attempt before, and to the messages of a batch."""
    from opentelemetry.trace import Link

    is_one = len(parts) == 1
    options = {**delivery.options, **(parts[0].options if is_one else {})}
    found = parse(options.get(PREVIOUS_ATTEMPT))
    traces = {} if found is None else {found: None}
    for part in () if is_one else parts:
        if len(traces) == _MAX_LINKS:
            break
        found = trace_of(part.message)
        if found is not None:
            traces[found] = None
    for trace in traces:
        yield Link(span_context(trace))


def _describe(span: Span, outcome: Outcome) -> None:
    span.set_attribute(names.OUTCOME, type(outcome).__name__.lower())
    if isinstance(outcome, Retry | Dead):
        failure = outcome.failure
        if isinstance(outcome, Dead):
            span.set_attribute(names.REASON, failure.reason.value)
        if failure.where:
            span.set_attribute(names.PLACES, failure.where)
        _fail(span, failure.error)


def _fail(span: Span, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute(names.ERROR_TYPE, error)
    span.set_status(Status(StatusCode.ERROR, error))
