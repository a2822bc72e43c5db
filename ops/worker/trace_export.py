"""Sends the spans of a worker to the collector that OTEL_* variables name."""

from __future__ import annotations

import logging
import sys
from threading import Thread
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from ...config import TracingSettings

logger = logging.getLogger("formrelay.workers")

#: Seconds for which the end of a worker waits for the last spans.
_FLUSH_SECONDS = 2.0


class TraceExport(Middleware):
    """Makes a tracer provider unless the program has one; sends the last spans before the end.

    In the worker process, because the threads of a provider do not survive a fork. After the
    modules of actors are imported, because a provider can be set only once.
    """

    def __init__(self, settings: TracingSettings) -> None:
        self._settings = settings

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        if self._settings.wants_provider:
            set_provider(self._settings.url)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        api: Any = sys.modules.get("opentelemetry.trace")
        flush = getattr(api and api.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            # It may wait longer than its own time-out for a collector that does not answer.
            thread = Thread(target=flush, name="formrelay-last-spans", daemon=True)
            thread.start()
            thread.join(_FLUSH_SECONDS)


def set_provider(url: str | None) -> bool:
    """Set the tracer provider of this process; returns False if there is one, or no SDK.

    Args:
        url: gets the spans, by OTLP over HTTP; None: the exporter's default.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning(
            "OTEL_* variables name a collector, but OpenTelemetry's SDK and its exporter "
            "otlp-proto-http are not installed: pip install 'formrelay[otel]'"
        )
        return False
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    default = Resource.create({SERVICE_NAME: "formrelay"})
    provider = TracerProvider(resource=default.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    trace.set_tracer_provider(provider)
    return True
