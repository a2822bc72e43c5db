"""The tracer of OpenTelemetry, if the program has set up a tracer provider.

Nothing of OpenTelemetry is imported here: a program that has a provider has imported it.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from ..core.messaging_names import SCOPE
from ..core.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, Tracer

logger = logging.getLogger("formrelay.workers")

#: The last provider and its tracer.
_known: tuple[Any, Any] = (None, None)


def active_tracer() -> Tracer | None:
    """Return the tracer for formrelay's spans.

    Returns:
        None: no provider is set, or another instrumentation of Dramatiq makes spans of jobs.
    """
    global _known
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    known = _known
    # Without a provider, get_tracer_provider() reads the environment: most of this function's time.
    if known[0] is not None and getattr(api, "_TRACER_PROVIDER", api) is None:
        return None
    provider = api.get_tracer_provider()
    if known[0] is provider:
        tracer: Tracer | None = known[1]
    else:
        is_set = not isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider)
        tracer = provider.get_tracer(SCOPE) if is_set else None
        _known = (provider, tracer)
    return None if tracer is None or _is_instrumented() else tracer


def _is_instrumented() -> bool:
    """Whether opentelemetry-instrumentor-dramatiq is in use."""
    package: Any = sys.modules.get("opentelemetry_instrumentor_dramatiq")
    if package is None or not package.DramatiqInstrumentor().is_instrumented_by_opentelemetry:
        return False
    _say_instrumented()
    return True


@cache
def _say_instrumented() -> None:
    logger.info("formrelay makes no spans: DramatiqInstrumentor makes spans of the same jobs")


def current_span_trace() -> TraceContext | None:
    """Return the place of OpenTelemetry's current span in its trace; None without a span."""
    api = sys.modules.get("opentelemetry.trace")
    return None if api is None else trace_of_span(api.get_current_span())


def trace_of_span(span: Span) -> TraceContext | None:
    """Return the place of a span in its trace; None for a span without a trace."""
    found = span.get_span_context()
    if not found.is_valid:
        return None
    state = found.trace_state.to_header() if found.trace_state else ""
    trace_id, span_id = f"{found.trace_id:032x}", f"{found.span_id:016x}"
    return TraceContext(trace_id, span_id, int(found.trace_flags), state)


def span_context(trace: TraceContext) -> SpanContext:
    """Convert a place in a trace to OpenTelemetry's type."""
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    return SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(trace.flags),
        trace_state=TraceState.from_header([trace.tracestate]) if trace.tracestate else None,
    )


def parent_context(trace: TraceContext | None) -> Context:
    """Return a context in which a span is a child of ``trace``; None: the first of a trace."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if trace is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(span_context(trace)), Context())
