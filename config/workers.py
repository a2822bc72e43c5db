"""The variables of the workers: queues, threads, retries and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..core.retry import Backoff, Exponential, Linear, RetryPolicy, Schedule
from .expected import shown
from .section import Section, variables_of
from .sources import Given
from .types import (
    AnyCase,
    Count,
    Decimal,
    Delay,
    Delays,
    KeepDays,
    MillisecondsOrZero,
    QueueName,
    Tables,
    Whole,
)

BackoffName = Annotated[Literal["exponential", "linear", "schedule"], AnyCase]

_QUEUE = "Name of the queue."


class WorkerSettings(Section):
    """What every worker has."""

    queue: QueueName = Field(description=_QUEUE)
    worker_concurrency: Count | None = Field(
        None, description="Number of threads in a process. Default: WORKER_CONCURRENCY."
    )
    max_retries: Whole = Field(
        2,
        ge=0,
        description="Maximum number of retries after the first attempt; then the job is "
        "dead-lettered.",
    )
    retry_backoff: BackoffName = Field(
        "exponential",
        description="How delays between attempts grow: 'exponential' or 'linear' (from RETRY_BASE "
        "to RETRY_CAP), or 'schedule' (RETRY_DELAYS).",
    )
    retry_base: Delay = Field(
        timedelta(seconds=1), description="Seconds before the first retry; later delays grow."
    )
    retry_cap: Delay = Field(
        timedelta(seconds=60), description="Maximum number of seconds that a delay grows to."
    )
    retry_delays: Delays = Field(
        (),
        description="Seconds before each attempt, comma-separated, the first attempt (0) included; "
        "the last delay repeats. Setting it makes the backoff 'schedule'.",
    )
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
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """A schedule without delays, or delays without a schedule."""
        if "retry_backoff" not in given:
            return
        backoff = given["retry_backoff"]
        delays = variables_of(cls)["retry_delays"].name
        has_delays = "retry_delays" in given
        is_schedule = backoff.text.strip().lower() == "schedule"
        if has_delays and not is_schedule:
            yield (
                f"expected {backoff.name} to be 'schedule', because {delays} is set,"
                f" got {shown(backoff.text)}: drop one of the two"
            )
        elif (
            is_schedule
            and "retry_delays" not in given
            and not cls.model_fields["retry_delays"].default
        ):
            yield (
                f"expected {delays} to be set, because {backoff.name} is 'schedule',"
                " got nothing: give the seconds before each attempt, like 0,30,120"
            )

    def policy(self) -> RetryPolicy:
        """Return when a job of this worker is tried again.

        Raises:
            ValueError: the backoff is a schedule without delays (``Settings.load`` refuses that).
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

    prefix: ClassVar[str] = "EVENT_"

    queue: QueueName = Field("events", description=_QUEUE)
    batch_size: Count = Field(10_000, description="Maximum number of rows in an insert.")
    batch_wait: MillisecondsOrZero = Field(
        timedelta(milliseconds=500),
        description="Milliseconds after which a batch is inserted though it is not full.",
    )
    tables: Tables = Field(
        (),
        description="Tables for some event types, comma-separated: "
        "payment.*=payments,user.deleted=audit. The first pattern that matches counts; other "
        "events go into `events`.",
    )
    keep: KeepDays | None = Field(
        None,
        description="Days after which ClickHouse deletes an event (`formrelay migrate` sets this "
        "up); daily counts stay. Default: never.",
    )

    def policy(self) -> RetryPolicy:
        """Return the common policy, but do not count attempts while ClickHouse is unavailable."""
        return super().policy().but(count_unavailable=False)


class SubmissionSettings(WorkerSettings):
    """Submissions worker"""

    prefix: ClassVar[str] = "SUBMISSION_"

    queue: QueueName = Field("submissions", description=_QUEUE)

    def policy(self) -> RetryPolicy:
        """Return the common policy, but do not count attempts while the API is unavailable or
        refuses the token."""
        return super().policy().but(count_unavailable=False)


class PartialSettings(WorkerSettings):
    """Partials worker"""

    prefix: ClassVar[str] = "PARTIAL_"

    queue: QueueName = Field("partials", description=_QUEUE)
    batch_size: Count = Field(
        10_000,
        le=30_000,
        description="Maximum number of autosaves handled together; only the newest of each form "
        "session is saved.",
    )
    batch_wait: MillisecondsOrZero = Field(
        timedelta(milliseconds=500),
        description="Milliseconds that an autosave waits for others.",
    )

    def policy(self) -> RetryPolicy:
        """Return the common policy, but do not count attempts while the API is unavailable or
        refuses the token."""
        return super().policy().but(count_unavailable=False)


class EmailSettings(WorkerSettings):
    """E-mail worker"""

    prefix: ClassVar[str] = "EMAIL_"

    queue: QueueName = Field("emails", description=_QUEUE)


class SheetsSettings(WorkerSettings):
    """Google Sheets worker"""

    prefix: ClassVar[str] = "SHEETS_"

    queue: QueueName = Field("sheets", description=_QUEUE)
