"""The variables of the webhooks worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from .secrets import secret
from .types import (
    Count,
    Days,
    DaysOrZero,
    Delay,
    Delays,
    KeepDays,
    Networks,
    QueueName,
    Seconds,
    Statuses,
    Whole,
)
from .urls import url_check
from .workers import MAX_RETRIES, QUEUE, RETRY_BACKOFF, RETRY_DELAYS, BackoffName, WorkerSettings

ProxyUrl = Annotated[
    SecretStr, secret(url_check("http", "https", "socks5h", advice="write http://host:3128"))
]


class WebhookSettings(WorkerSettings):
    """Webhooks worker"""

    prefix: ClassVar[str] = "WEBHOOK_"

    queue: QueueName = Field("webhooks", description=QUEUE)
    worker_concurrency: Count | None = Field(
        None,
        description="Maximum number of deliveries in flight in a process. Default: "
        "WORKER_CONCURRENCY.",
    )
    max_retries: Whole = Field(6, ge=0, description=MAX_RETRIES)
    retry_backoff: BackoffName = Field("schedule", description=RETRY_BACKOFF)
    retry_delays: Delays = Field(
        tuple(timedelta(seconds=n) for n in (0, 30, 120, 600, 3600, 21_600, 86_400)),
        description=RETRY_DELAYS,
    )
    allowed_private_cidrs: Networks = Field(
        (), description="Private networks that webhooks may reach, comma-separated: 10.0.0.0/8."
    )
    allow_http: bool = Field(False, description="Whether endpoints may use plain http://.")
    proxy: ProxyUrl | None = Field(
        None,
        description="Proxy for all webhooks, which then decides what may be reached: http://, "
        "https:// or socks5h://. HTTP_PROXY and the like are ignored.",
    )
    timeout: Seconds = Field(
        timedelta(seconds=20), description="Seconds after which a delivery fails."
    )
    permanent_statuses: Statuses = Field(
        (400, 413, 414, 422, 501),
        description="HTTP statuses after which a webhook is not retried, comma-separated; always "
        "includes 410, which also disables the endpoint.",
    )
    delivery_log: bool | None = Field(
        None,
        description="Whether attempts are recorded in ClickHouse. Default: true if CLICKHOUSE_URL "
        "is set.",
    )
    keep_response_text: bool = Field(
        False,
        description="Whether logs keep the first 2,048 characters of a response, which may hold "
        "personal data and secrets: only exact copies of parts of the request are removed.",
    )
    keep_delivered: DaysOrZero = Field(
        timedelta(0),
        description="Days for which the Redis of STATE_URL keeps delivered webhooks, with their "
        "secrets, for `formrelay webhooks resend`; 0 keeps none.",
    )
    keep_attempts: KeepDays | None = Field(
        None,
        description="Days after which ClickHouse deletes a row of the delivery log, once "
        "`formrelay migrate` has run. Default: never.",
    )
    endpoint_concurrency: Count | None = Field(
        None,
        description="Maximum number of deliveries in flight to an endpoint in a process. Default: "
        "a quarter of the concurrency.",
    )
    breaker_failures: Whole = Field(
        5,
        ge=0,
        description="Number of failures in a row after which the circuit breaker opens; 0 "
        "switches it off.",
    )
    breaker_wait: Delay = Field(
        timedelta(seconds=30),
        description="Seconds for which the breaker is open at first; twice as long each further "
        "time, up to ten minutes.",
    )
    disable_after_failures: Count = Field(
        100, description="Number of failures in a row after which an endpoint is disabled."
    )
    disable_after: Days = Field(
        timedelta(days=5),
        description="Days without a successful delivery after which a failing endpoint is "
        "disabled.",
    )
