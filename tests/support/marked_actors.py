"""Actors of one's own for the marked-value run: they fail in ways that name values.

Importing it sets up Sentry and OpenTelemetry as a host may, if the run has collectors for them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import warnings
from typing import Any

import dramatiq

logger = logging.getLogger("host")


class HostError(Exception):
    """An error of the host."""


if dsn := os.environ.get("MARKED_SENTRY_DSN"):
    import sentry_sdk

    sentry_sdk.init(dsn=dsn, traces_sample_rate=1.0)

if collector := os.environ.get("MARKED_SPANS_URL"):
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _provider = TracerProvider()
    _provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=collector), schedule_delay_millis=500)
    )
    trace.set_tracer_provider(_provider)


@dramatiq.actor(queue_name="own", max_retries=1, min_backoff=10)
def raises(payload: Any) -> None:
    """Fail with the payload in the error and in its cause."""
    try:
        raise KeyError(payload["answer"])
    except KeyError as error:
        raise HostError(f"cannot use {payload}") from error


@dramatiq.actor(queue_name="own", max_retries=0)
def raises_later(payload: Any) -> None:
    """Fail in a task of an event loop, and leave another task that fails."""
    asyncio.run(_fail_together(payload))


async def _fail_together(payload: Any) -> None:
    await asyncio.gather(_fail(payload), _fail(payload))


async def _fail(payload: Any) -> None:
    await asyncio.sleep(0)
    raise HostError(f"cannot await {payload}")


@dramatiq.actor(queue_name="own", max_retries=0)
def raises_in_a_thread(payload: Any) -> None:
    """Fail in a thread of its own, whose error Python prints."""
    thread = threading.Thread(target=_raise, args=(payload,))
    thread.start()
    thread.join()


def _raise(payload: Any) -> None:
    raise HostError(f"cannot thread {payload}")


@dramatiq.actor(queue_name="crashes", max_retries=1)
def dies(payload: Any) -> None:
    """Kill the worker."""
    del payload
    os.kill(os.getpid(), signal.SIGKILL)


@dramatiq.actor(queue_name="own", max_retries=0)
def planted(payload: Any) -> None:
    """Log the payload, as nobody should: shows that the search finds it."""
    warnings.warn("a warning of the host", stacklevel=1)
    logger.warning("planted: %s", payload)
