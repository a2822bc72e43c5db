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
from .workers import BackoffName, WorkerSettings

ProxyUrl = Annotated[
    SecretStr,
    secret(
        url_check(
            *("http", "https", "socks5h"), advice="give a proxy's address, like http://host:3128"
        )
    ),
]


class WebhookSettings(WorkerSettings):
    """Webhooks worker"""

    prefix: ClassVar[str] = "WEBHOOK_"

    queue: QueueName = Field("webhooks", description="Name of the queue.")
    worker_concurrency: Count | None = Field(
        None,
        description="Maximum number of deliveries in flight in a process; a delivery needs no "
        "thread. Default: WORKER_CONCURRENCY.",
    )
    max_retries: Whole = Field(
        6,
        ge=0,
        description="Maximum number of retries after the first attempt; then the job is "
        "dead-lettered.",
    )
    retry_backoff: BackoffName = Field(
        "schedule",
        description="How delays between attempts grow: 'exponential' or 'linear' (from RETRY_BASE "
        "to RETRY_CAP), or 'schedule' (RETRY_DELAYS).",
    )
    retry_delays: Delays = Field(
        tuple(timedelta(seconds=n) for n in (0, 30, 120, 600, 3600, 21_600, 86_400)),
        description="Seconds before each attempt, comma-separated, the first attempt (0) included; "
        "the last delay repeats.",
    )
    allowed_private_cidrs: Networks = Field(
        (),
        description="Private networks that webhooks may reach, comma-separated: 10.0.0.0/8.",
    )
    allow_http: bool = Field(False, description="Whether endpoints may use plain http://.")
    proxy: ProxyUrl | None = Field(
        None,
        description="Proxy for all webhooks: http://, https:// or socks5h://. The proxy then "
        "decides which addresses may be reached. HTTP_PROXY and the like are never used.",
    )
    timeout: Seconds = Field(
        timedelta(seconds=20), description="Seconds after which a delivery fails."
    )
    permanent_statuses: Statuses = Field(
        (400, 413, 414, 422, 501),
        description="HTTP statuses after which a webhook is not retried, comma-separated. 410 "
        "always counts as one, and disables the endpoint.",
    )
    delivery_log: bool | None = Field(
        None,
        description="Whether every attempt is recorded in ClickHouse, through the events queue. "
        "Default: true if CLICKHOUSE_URL is set.",
    )
    keep_response_text: bool = Field(
        False,
        description="Whether the log and the delivery log keep the first 2,048 characters of a "
        "response. They may contain personal data and secrets: parts of the request are removed "
        "only where the receiver repeats them exactly.",
    )
    keep_delivered: DaysOrZero = Field(
        timedelta(0),
        description="Days for which the Redis of STATE_URL keeps delivered webhooks, with their "
        "secrets, for `formrelay webhooks resend`; 0 keeps none.",
    )
    keep_attempts: KeepDays | None = Field(
        None,
        description="Days after which ClickHouse deletes a row of the delivery log (`formrelay "
        "migrate` sets this up). Default: never.",
    )
    endpoint_concurrency: Count | None = Field(
        None,
        description="Maximum number of deliveries to one endpoint in flight in a process. Default: "
        "a quarter of the concurrency.",
    )
    breaker_failures: Whole = Field(
        5,
        ge=0,
        description="Number of failures in a row after which the circuit breaker stops deliveries "
        "to an endpoint for a while; 0 switches the breaker off, also at a high failure rate.",
    )
    breaker_wait: Delay = Field(
        timedelta(seconds=30),
        description="Seconds for which the breaker first stops deliveries; each further stop is "
        "twice as long, up to ten minutes.",
    )
    disable_after_failures: Count = Field(
        100, description="Number of failures in a row after which an endpoint is disabled."
    )
    disable_after: Days = Field(
        timedelta(days=5),
        description="Days without a successful delivery after which a failing endpoint is "
        "disabled.",
    )
