"""The sections about the workers: queues, threads and retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from ..core.retry import Backoff, Exponential, Linear, RetryPolicy, Schedule
from .base import Section, variables_of
from .parser import optional, shown
from .secrets import secret
from .types import (
    TRUE_OR_FALSE,
    Bool,
    Days,
    DaysOrNone,
    Delays,
    KeepDays,
    MillisOrNone,
    Networks,
    QueueName,
    Seconds,
    Statuses,
    Tables,
    Wait,
    one_of,
    share,
    whole,
)
from .urls import url_check
from .variables import Given

BackoffName = Annotated[
    Literal["exponential", "linear", "schedule"], one_of("exponential", "linear", "schedule")
]

ProxyUrl = Annotated[
    SecretStr | None,
    secret(
        url_check(
            "http", "https", "socks5h", advice="give a proxy's address, like http://host:3128"
        )
    ),
]


class WorkerSettings(Section):
    """What every worker has."""

    queue: QueueName = Field(description="The queue that is read.")
    worker_concurrency: Annotated[int | None, optional(whole(1))] = Field(
        None, description="Threads a process. Not set: WORKER_CONCURRENCY."
    )
    max_retries: Annotated[int, whole(0)] = Field(
        2, description="Attempts after the first one; then the job goes to the dead letters."
    )
    retry_backoff: BackoffName = Field(
        "exponential",
        description="'exponential' or 'linear' (from RETRY_BASE to RETRY_CAP), or 'schedule' "
        "(RETRY_DELAYS).",
    )
    retry_base: Wait = Field(
        timedelta(seconds=1), description="The wait before the first retry; then it grows."
    )
    retry_cap: Wait = Field(timedelta(seconds=60), description="The longest that a wait grows.")
    retry_delays: Delays = Field(
        (),
        description="The wait before each attempt, the first (0) included; the last one repeats. "
        "Setting it makes the backoff 'schedule'.",
    )
    retry_jitter: Annotated[float, share()] = Field(
        0.1, description="At most this share is added to a wait, at random: 0 to 1."
    )

    @model_validator(mode="before")
    @classmethod
    def _delays_mean_schedule(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("retry_delays") and "retry_backoff" not in data:
            return data | {"retry_backoff": "schedule"}
        return data

    @classmethod
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """A schedule without delays, or delays without a schedule."""
        if "retry_backoff" not in given:
            return
        backoff = given["retry_backoff"]
        delays = variables_of(cls)["retry_delays"]
        is_schedule = backoff.text.strip().lower() == "schedule"
        if "retry_delays" in given and not is_schedule:
            yield (
                f"expected {backoff.name} to be 'schedule', because {delays.name} is set,"
                f" got {shown(backoff.text)}: drop one of the two"
            )
        elif is_schedule and "retry_delays" not in given and not delays.default:
            yield (
                f"expected {delays.name} to be set, because {backoff.name} is 'schedule',"
                " got nothing: give the seconds before each attempt, like 0,30,120"
            )

    def policy(self) -> RetryPolicy:
        """When a job of this worker is tried again.

        Raises:
            ValueError: the backoff is a schedule without delays (``Settings.load``
                does not let it come to that).
        """
        return RetryPolicy(
            max_attempts=self.max_retries + 1, backoff=self._backoff(), jitter=self.retry_jitter
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

    model_config = SettingsConfigDict(env_prefix="EVENT_")

    queue: QueueName = Field("events", description="The queue that is read.")
    batch_size: Annotated[int, whole(1)] = Field(10_000, description="Most rows of one insert.")
    batch_wait: MillisOrNone = Field(
        timedelta(milliseconds=500), description="How long a batch waits to fill up."
    )
    tables: Tables = Field(
        (),
        description="Tables for some types of events, comma-separated; the first that matches "
        "counts, all others go into `events`: payment.*=payments,user.deleted=audit.",
    )
    keep: KeepDays = Field(
        None,
        description="`formrelay migrate` has ClickHouse delete older events; not set: none. What "
        "was counted by day is kept.",
    )

    def policy(self) -> RetryPolicy:
        """As every worker's, but an unreachable ClickHouse uses no attempt up."""
        return super().policy().but(count_unavailable=False)


class SubmissionSettings(WorkerSettings):
    """Submissions worker"""

    model_config = SettingsConfigDict(env_prefix="SUBMISSION_")

    queue: QueueName = Field("submissions", description="The queue that is read.")

    def policy(self) -> RetryPolicy:
        """As every worker's, but an API that is away or refuses the token uses no attempt up."""
        return super().policy().but(count_unavailable=False)


class PartialSettings(WorkerSettings):
    """Partials worker"""

    model_config = SettingsConfigDict(env_prefix="PARTIAL_")

    queue: QueueName = Field("partials", description="The queue that is read.")
    batch_size: Annotated[int, whole(1, 30_000)] = Field(
        10_000, description="Most autosaves that are looked at together, for the newest of each."
    )
    batch_wait: MillisOrNone = Field(
        timedelta(milliseconds=500), description="How long autosaves wait for others."
    )

    def policy(self) -> RetryPolicy:
        """As every worker's, but an API that is away or refuses the token uses no attempt up."""
        return super().policy().but(count_unavailable=False)


class WebhookSettings(WorkerSettings):
    """Webhooks worker"""

    model_config = SettingsConfigDict(env_prefix="WEBHOOK_")

    queue: QueueName = Field("webhooks", description="The queue that is read.")
    worker_concurrency: Annotated[int | None, optional(whole(1))] = Field(
        None,
        description="Deliveries at a time in one process; they keep no thread each. Not set: "
        "WORKER_CONCURRENCY.",
    )
    max_retries: Annotated[int, whole(0)] = Field(
        6, description="Attempts after the first one; then the job goes to the dead letters."
    )
    retry_backoff: BackoffName = Field(
        "schedule", description="'exponential', 'linear', or 'schedule' (RETRY_DELAYS)."
    )
    retry_delays: Delays = Field(
        tuple(timedelta(seconds=n) for n in (0, 30, 120, 600, 3600, 21_600, 86_400)),
        description="The wait before each attempt, the first (0) included; the last one repeats.",
    )
    allowed_private_cidrs: Networks = Field(
        (),
        description="Private networks that webhooks may reach, comma-separated, like 10.0.0.0/8.",
    )
    allow_http: Bool = Field(False, description="Whether plain http:// endpoints are allowed.")
    proxy: ProxyUrl = Field(
        None,
        description="A proxy through which all webhooks go: http://, https:// or socks5h://. Which "
        "addresses may be reached is then for it to say. That of the environment is never used.",
    )
    timeout: Seconds = Field(timedelta(seconds=20), description="How long a delivery may take.")
    permanent_statuses: Statuses = Field(
        (400, 413, 414, 422, 501),
        description="Answers after which a webhook is not tried again, comma-separated; 410 is "
        "always one, and disables the endpoint.",
    )
    delivery_log: Annotated[bool | None, optional(TRUE_OR_FALSE)] = Field(
        None,
        description="Whether every attempt is recorded in ClickHouse, through the queue of events. "
        "Not set: where CLICKHOUSE_URL is.",
    )
    keep_response_text: Bool = Field(
        False,
        description="Whether the log line and the delivery log keep the first 2,048 characters of "
        "a receiver's answer. They may hold personal data and secrets: of what the receiver "
        "repeats of the request, only exact repetitions are removed.",
    )
    keep_delivered: DaysOrNone = Field(
        timedelta(0),
        description="For so long the Redis of STATE_URL keeps what was delivered, with its secret, "
        "for `formrelay webhooks resend`; 0: not at all.",
    )
    keep_attempts: KeepDays = Field(
        None,
        description="`formrelay migrate` has ClickHouse delete older rows of the delivery log; not "
        "set: none.",
    )
    endpoint_concurrency: Annotated[int | None, optional(whole(1))] = Field(
        None,
        description="Deliveries to one endpoint at a time, in one process. Not set: a quarter of "
        "the concurrency.",
    )
    breaker_failures: Annotated[int, whole(0)] = Field(
        5,
        description="After so many failures in a row an endpoint is left alone for a while; 0: "
        "never, whatever its rate of failures.",
    )
    breaker_wait: Wait = Field(
        timedelta(seconds=30),
        description="For so long at first, then twice as long each time, up to ten minutes.",
    )
    disable_after_failures: Annotated[int, whole(1)] = Field(
        100, description="After so many failures in a row an endpoint is disabled."
    )
    disable_after: Days = Field(
        timedelta(days=5), description="So is one where no delivery has worked for so long."
    )


class EmailSettings(WorkerSettings):
    """E-mail worker"""

    model_config = SettingsConfigDict(env_prefix="EMAIL_")

    queue: QueueName = Field("emails", description="The queue that is read.")


class SheetsSettings(WorkerSettings):
    """Google Sheets worker"""

    model_config = SettingsConfigDict(env_prefix="SHEETS_")

    queue: QueueName = Field("sheets", description="The queue that is read.")
