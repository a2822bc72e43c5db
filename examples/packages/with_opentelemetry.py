"""A span for each attempt, in the trace of its sender. OTEL_EXPORTER_OTLP_ENDPOINT gets them."""

import asyncio
import time
from datetime import timedelta

import dramatiq
from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from formrelay.brokers import get_broker
from formrelay.core.errors import NotNow

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("jobs")


class Tracing(dramatiq.Middleware):
    def __init__(self):
        self.running = {}

    def before_enqueue(self, broker, message, delay):
        propagate.inject(message.options.setdefault("trace", {}))

    def before_process_message(self, broker, message):
        sender = propagate.extract(message.options.get("trace", {}))
        span = tracer.start_span(message.actor_name, sender, kind=trace.SpanKind.CONSUMER)
        token = context.attach(trace.set_span_in_context(span, sender))
        self.running[message.message_id] = span, token

    def after_process_message(self, broker, message, *, result=None, exception=None):
        span, token = self.running.pop(message.message_id, (None, None))
        if span is not None:
            if exception is not None:
                span.set_status(trace.StatusCode.ERROR, type(exception).__name__)
            context.detach(token)
            span.end()

    after_skip_message = after_process_message  # a deferral is no error

    def after_worker_shutdown(self, broker, worker):
        provider.shutdown()


broker = get_broker()
broker.add_middleware(Tracing())


@dramatiq.actor(broker=broker, queue_name="calls", max_retries=0)
def call(milliseconds, due=0, error=None):
    if time.time() < due:
        raise NotNow("not due yet", after=timedelta(seconds=0.1))
    time.sleep(milliseconds / 1000)
    if error:
        raise ConnectionError(error)


@dramatiq.actor(broker=broker, queue_name="calls", max_retries=0, in_flight=100)
async def call_async(milliseconds, due=0, error=None):
    await asyncio.sleep(milliseconds / 1000)
    call(0, due, error)
