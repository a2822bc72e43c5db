"""The variables of the workers: queues, threads, retries, batches and webhooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, model_validator

from ..core.errors import ConfigError
from ..core.retry import Backoff, Exponential, Linear, RetryPolicy, Schedule
from .base import Section
from .certificates import (
    CERT_HELP,
    KEY_HELP,
    PASSWORD_HELP,
    CertificateFile,
    CertificateSection,
    KeyFile,
)
from .expected import shown
from .secrets import Password, secret
from .types import (
    AnyCase,
    Count,
    Days,
    DaysOrZero,
    Decimal,
    Delay,
    Delays,
    KeepDays,
    MillisecondsOrZero,
    Networks,
    QueueName,
    Seconds,
    Statuses,
    Tables,
    Whole,
)
from .urls import url_check

BackoffName = Annotated[Literal["exponential", "linear", "schedule"], AnyCase]
ProxyUrl = Annotated[
    SecretStr, secret(url_check("http", "https", "socks5h", advice="write http://host:3128"))
]

QUEUE_HELP = "Name of the queue."
MAX_RETRIES_HELP = (
    "Maximum number of retries after the first attempt; then the job is dead-lettered."
)
RETRY_BACKOFF_HELP = (
    "'exponential' or 'linear' delays from RETRY_BASE to RETRY_CAP, or the 'schedule' RETRY_DELAYS."
)
RETRY_DELAYS_HELP = (
    "Seconds before each attempt (the first: 0), comma-separated; the last repeats. Implies "
    "'schedule'."
)


class RecyclingSettings(Section):
    """Recycling of worker processes"""

    prefix: ClassVar[str] = "WORKER_"

    max_jobs: Count | None = Field(
        None,
        description="Number of jobs after which a worker process is recycled: it finishes its jobs "
        "and begins anew. Default: never.",
    )
    max_memory_mb: Count | None = Field(
        None,
        description="Megabytes of resident memory above which a worker process is recycled. "
        "Default: never.",
    )


class WorkerSettings(Section):
    """The settings of every worker."""

    #: Whether an attempt counts if nothing was sent because the sink was unavailable.
    counts_unavailable: ClassVar[bool] = True
    #: The wait for the sink otherwise; None for that of a retry.
    unavailable_backoff: ClassVar[Backoff | None] = None

    queue: QueueName = Field(description=QUEUE_HELP)
    worker_concurrency: Count | None = Field(
        None, description="Number of threads in a process. Default: WORKER_CONCURRENCY."
    )
    max_retries: Whole = Field(2, ge=0, description=MAX_RETRIES_HELP)
    retry_backoff: BackoffName = Field("exponential", description=RETRY_BACKOFF_HELP)
    retry_base: Delay = Field(
        timedelta(seconds=1), description="Seconds before the first retry; later delays grow."
    )
    retry_cap: Delay = Field(
        timedelta(seconds=60), description="Maximum number of seconds that a delay grows to."
    )
    retry_delays: Delays = Field((), description=RETRY_DELAYS_HELP)
    retry_jitter: Decimal = Field(
        0.1, ge=0, le=1, description="Maximum share of a delay that is added at random: 0 to 1."
    )

    @model_validator(mode="before")
    @classmethod
    def _delays_mean_schedule(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("retry_delays") and "retry_backoff" not in data:
            return data | {"retry_backoff": "schedule"}
        return data

    @classmethod
    def conflicts(cls, texts: Mapping[str, str]) -> Iterator[ConfigError]:
        """A schedule without delays, or delays without a schedule."""
        name, delays = f"{cls.prefix}RETRY_BACKOFF", f"{cls.prefix}RETRY_DELAYS"
        backoff = texts.get(name, "")
        is_schedule = backoff.lower() == "schedule"
        if delays in texts and backoff and not is_schedule:
            yield ConfigError(
                f"expected {name} to be 'schedule', because {delays} is set,"
                f" got {shown(backoff)}: drop one of the two"
            )
        if delays not in texts and is_schedule and not cls.model_fields["retry_delays"].default:
            yield ConfigError(
                f"expected {delays} to be set, because {name} is 'schedule',"
                " got nothing: give the seconds before each attempt, like 0,30,120"
            )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Waits that grow, although there is a schedule of waits, which would ignore them.

        Their defaults are allowed: all variables of ``.env.example`` may be set.
        """
        yield from super().faults()
        if self.retry_backoff != "schedule":
            return
        name = f"{self.prefix}RETRY_BACKOFF"
        for field in ("retry_base", "retry_cap"):
            if getattr(self, field) != type(self).model_fields[field].default:
                variable = f"{self.prefix}{field.upper()}_SECONDS"
                yield (
                    variable,
                    f"expected {variable} to be unset, because {name} is 'schedule', which does "
                    f"not use it: set {self.prefix}RETRY_DELAYS instead, or {name} to "
                    "'exponential' or 'linear'",
                )

    def concurrency_of(self, threads: int) -> int | None:
        """Maximum number of jobs in progress in a process of ``threads``; None for no limit."""
        return self.worker_concurrency

    def policy(self) -> RetryPolicy:
        """Return when a job of this worker is tried again.

        Raises:
            ValueError: the backoff is a schedule without delays (``Settings.load`` refuses that).
        """
        return RetryPolicy(
            max_attempts=self.max_retries + 1,
            backoff=self._backoff(),
            jitter=self.retry_jitter,
            count_unavailable=self.counts_unavailable,
            unavailable_backoff=self.unavailable_backoff,
        )

    def _backoff(self) -> Backoff:
        match self.retry_backoff:
            case "exponential":
                return Exponential(self.retry_base, self.retry_cap)
            case "linear":
                return Linear(self.retry_base, self.retry_cap)
            case "schedule":
                return Schedule(self.retry_delays)


class EventSettings(WorkerSettings):
    """Events worker"""

    prefix: ClassVar[str] = "EVENT_"
    counts_unavailable: ClassVar[bool] = False

    queue: QueueName = Field("events", description=QUEUE_HELP)
    batch_size: Count = Field(10_000, description="Maximum number of rows in an insert.")
    batch_wait: MillisecondsOrZero = Field(
        timedelta(milliseconds=500),
        description="Milliseconds after which a batch is inserted though it is not full.",
    )
    tables: Tables = Field(
        (),
        description="Tables for some event types, comma-separated, the first match counts; other "
        "events go into `events`: payment.*=payments,user.deleted=audit.",
    )
    keep: KeepDays | None = Field(
        None,
        description="Days after which ClickHouse deletes an event, once `formrelay migrate` has "
        "run; daily counts stay. Default: never.",
    )


class SubmissionSettings(WorkerSettings):
    """Submissions worker"""

    prefix: ClassVar[str] = "SUBMISSION_"
    counts_unavailable: ClassVar[bool] = False

    queue: QueueName = Field("submissions", description=QUEUE_HELP)


class PartialSettings(WorkerSettings):
    """Partials worker"""

    prefix: ClassVar[str] = "PARTIAL_"
    counts_unavailable: ClassVar[bool] = False

    queue: QueueName = Field("partials", description=QUEUE_HELP)
    batch_size: Count = Field(
        10_000,
        le=30_000,
        description="Maximum number of autosaves handled together; only the newest of each form "
        "session is saved.",
    )
    batch_wait: MillisecondsOrZero = Field(
        timedelta(milliseconds=500), description="Milliseconds that an autosave waits for others."
    )


class WebhookSettings(WorkerSettings, CertificateSection):
    """Webhooks worker"""

    prefix: ClassVar[str] = "WEBHOOK_"

    queue: QueueName = Field("webhooks", description=QUEUE_HELP)
    worker_concurrency: Count | None = Field(
        None,
        description="Maximum number of deliveries in flight in a process. Default: "
        "WORKER_CONCURRENCY.",
    )
    max_retries: Whole = Field(6, ge=0, description=MAX_RETRIES_HELP)
    retry_backoff: BackoffName = Field("schedule", description=RETRY_BACKOFF_HELP)
    retry_delays: Delays = Field(
        tuple(timedelta(seconds=n) for n in (0, 30, 120, 600, 3600, 21_600, 86_400)),
        description=RETRY_DELAYS_HELP,
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
    client_cert_file: CertificateFile | None = Field(
        None, description=CERT_HELP.format("endpoints that ask for one")
    )
    client_key_file: KeyFile | None = Field(None, description=KEY_HELP)
    client_key_password: Password | None = Field(None, description=PASSWORD_HELP)
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
    send_traceparent: bool = Field(
        True,
        description="Whether endpoints get the header traceparent of a job that has a trace.",
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
