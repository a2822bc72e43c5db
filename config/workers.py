"""The variables of the workers: queues, threads, retries and batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..core.retry import Backoff, Exponential, Linear, RetryPolicy, Schedule
from .expected import shown
from .section import Section
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

QUEUE = "Name of the queue."
MAX_RETRIES = "Maximum number of retries after the first attempt; then the job is dead-lettered."
RETRY_BACKOFF = (
    "'exponential' or 'linear' delays from RETRY_BASE to RETRY_CAP, or the 'schedule' RETRY_DELAYS."
)
RETRY_DELAYS = (
    "Seconds before each attempt (the first: 0), comma-separated; the last repeats. Implies "
    "'schedule'."
)


class WorkerSettings(Section):
    """What every worker has."""

    #: Whether an attempt counts if nothing was sent because the sink was unavailable.
    counts_unavailable: ClassVar[bool] = True

    queue: QueueName = Field(description=QUEUE)
    worker_concurrency: Count | None = Field(
        None, description="Number of threads in a process. Default: WORKER_CONCURRENCY."
    )
    max_retries: Whole = Field(2, ge=0, description=MAX_RETRIES)
    retry_backoff: BackoffName = Field("exponential", description=RETRY_BACKOFF)
    retry_base: Delay = Field(
        timedelta(seconds=1), description="Seconds before the first retry; later delays grow."
    )
    retry_cap: Delay = Field(
        timedelta(seconds=60), description="Maximum number of seconds that a delay grows to."
    )
    retry_delays: Delays = Field((), description=RETRY_DELAYS)
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
        backoff, delays = f"{cls.prefix}RETRY_BACKOFF", f"{cls.prefix}RETRY_DELAYS"
        if backoff not in given:
            return
        text = given[backoff].text
        is_schedule = text.strip().lower() == "schedule"
        if delays in given and not is_schedule:
            yield (
                f"expected {backoff} to be 'schedule', because {delays} is set,"
                f" got {shown(text)}: drop one of the two"
            )
        elif is_schedule and delays not in given and not cls.model_fields["retry_delays"].default:
            yield (
                f"expected {delays} to be set, because {backoff} is 'schedule',"
                " got nothing: give the seconds before each attempt, like 0,30,120"
            )

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

    queue: QueueName = Field("events", description=QUEUE)
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

    queue: QueueName = Field("submissions", description=QUEUE)


class PartialSettings(WorkerSettings):
    """Partials worker"""

    prefix: ClassVar[str] = "PARTIAL_"
    counts_unavailable: ClassVar[bool] = False

    queue: QueueName = Field("partials", description=QUEUE)
    batch_size: Count = Field(
        10_000,
        le=30_000,
        description="Maximum number of autosaves handled together; only the newest of each form "
        "session is saved.",
    )
    batch_wait: MillisecondsOrZero = Field(
        timedelta(milliseconds=500), description="Milliseconds that an autosave waits for others."
    )


class EmailSettings(WorkerSettings):
    """E-mail worker"""

    prefix: ClassVar[str] = "EMAIL_"

    queue: QueueName = Field("emails", description=QUEUE)


class SheetsSettings(WorkerSettings):
    """Google Sheets worker"""

    prefix: ClassVar[str] = "SHEETS_"

    queue: QueueName = Field("sheets", description=QUEUE)
