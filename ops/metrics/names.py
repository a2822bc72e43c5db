"""The names of all metrics, with their types, labels and help texts.

Names are public: dashboards and rules depend on them. Units and suffixes follow Prometheus' naming
rules (https://prometheus.io/docs/practices/naming/): base units, ``_total`` for counters.

Every worker machine exports the metrics of its processes, which are to be added up. The metrics of
queues come from the broker, and each machine exports the same values: use ``max by (queue)``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "formrelay_"


class Metric(NamedTuple):
    """A metric.

    Attributes:
        name: without :data:`PREFIX`; of a counter with ``_total``.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        """The name as Prometheus shows it; a histogram adds _bucket, _sum and _count."""
        return PREFIX + self.name


_EACH = "Each machine exports the same value: use max by (queue)."

# -- jobs ----------------------------------------------------------------------------------

JOBS = Metric(
    "jobs_total",
    "counter",
    ("queue", "actor", "outcome"),
    "Settled jobs by outcome: done, retry, dead, defer. Each attempt of a job counts once.",
)
JOB_DURATION = Metric(
    "job_duration_seconds",
    "histogram",
    ("queue", "actor"),
    "Duration of attempts, from the call of the actor to the settlement. Each job of a batch "
    "counts once, with the duration of the batch.",
)
RETRIES = Metric(
    "retries_total",
    "counter",
    ("queue", "error_type"),
    "Failed attempts that are retried, by type of the error.",
)
DEFERRALS = Metric(
    "deferrals_total",
    "counter",
    ("queue", "reason"),
    "Jobs that were put back without using an attempt, by reason.",
)
DEAD_LETTERS = Metric(
    "dead_letters_total",
    "counter",
    ("queue", "error_type"),
    "Jobs that workers dead-lettered, by type of the error. Dead letters made by RabbitMQ itself "
    "are not counted here, but in formrelay_queue_jobs.",
)
BATCH_JOBS = Metric(
    "batch_jobs",
    "histogram",
    ("queue", "actor"),
    "Number of jobs in a batch.",
)
SCHEDULE_LATENESS = Metric(
    "schedule_lateness_seconds",
    "histogram",
    ("queue",),
    "Time from the due time of a scheduled job or a retry to the start of its attempt. Includes "
    "the time in the queue.",
)

# -- sinks ---------------------------------------------------------------------------------

SINK_REQUEST_DURATION = Metric(
    "sink_request_duration_seconds",
    "histogram",
    ("sink", "result"),
    "Duration of requests to api, clickhouse, smtp, sheets and webhook endpoints, by result: ok, "
    "refused, busy, unready, unavailable, failed.",
)
SINK_PAUSED = Metric(
    "sink_paused",
    "gauge",
    ("sink",),
    "1 while a worker fetches no jobs for a sink because it fails (circuit breaker), otherwise 0.",
)
WEBHOOK_BREAKERS_OPEN = Metric(
    "webhook_breakers_open",
    "gauge",
    (),
    "Number of webhook endpoints whose circuit breaker is open or half-open; of the processes of "
    "the machine, the largest number.",
)

# -- queues, from the broker ---------------------------------------------------------------

QUEUE_JOBS = Metric(
    "queue_jobs",
    "gauge",
    ("queue", "state"),
    "Jobs on the broker by state: waiting, scheduled, in_flight, dead. A state that the broker "
    f"does not count is missing. {_EACH}",
)
QUEUE_OLDEST = Metric(
    "queue_oldest_seconds",
    "gauge",
    ("queue",),
    "Time since the job that has waited longest was first sent; 0 if no job waits. Redis only. "
    f"{_EACH}",
)
QUEUE_DUE_JOBS = Metric(
    "queue_due_jobs",
    "gauge",
    ("queue",),
    f"Scheduled jobs that are due and that no worker has fetched. Redis only. {_EACH}",
)
QUEUE_BACKLOG_JOBS = Metric(
    "queue_backlog_jobs",
    "gauge",
    ("queue",),
    "Waiting jobs, and on Redis scheduled jobs that are due within a minute. For autoscalers. "
    f"{_EACH}",
)
SCHEDULED_JOBS = Metric(
    "scheduled_jobs",
    "gauge",
    (),
    "Scheduled jobs of all queues together. Only where the broker does not count them by queue "
    "(RabbitMQ). Each machine exports the same value: use max().",
)
BROKER_UP = Metric(
    "broker_up",
    "gauge",
    (),
    "1 if the broker answered within the last 35 seconds, otherwise 0.",
)

# -- workers of this machine -----------------------------------------------------------------

WORKERS = Metric(
    "workers", "gauge", (), "Live worker processes of this machine, hanging processes included."
)
WORKER_STARTS = Metric("worker_starts_total", "counter", (), "Worker processes that started.")
WORKER_CRASHES = Metric(
    "worker_crashes_total",
    "counter",
    (),
    "Worker processes that ended without shutting down, such as killed processes.",
)
WORKER_RECYCLES = Metric(
    "worker_recycles_total",
    "counter",
    (),
    "Worker processes that ended to be replaced, after their maximum of jobs or memory.",
)
WORKER_MEMORY = Metric(
    "worker_memory_bytes", "gauge", (), "Resident memory of all live worker processes together."
)
WORKER_MEMORY_MAX = Metric(
    "worker_memory_max_bytes", "gauge", (), "Resident memory of the largest live worker process."
)
WORKER_SNAPSHOT_AGE = Metric(
    "worker_snapshot_age_seconds",
    "gauge",
    (),
    "Age of the oldest snapshot of a live worker process, written every 5 seconds. A hanging "
    "process writes none.",
)
LOG_LINES_DROPPED = Metric(
    "log_lines_dropped_total",
    "counter",
    (),
    "Log lines that were dropped because they were not read fast enough.",
)
BUILD_INFO = Metric(
    "build_info",
    "gauge",
    ("version", "broker", "python"),
    "1 for each version of formrelay, broker and version of Python of the live processes.",
)

#: All metrics, in the order of the page.
ALL = (
    *(JOBS, JOB_DURATION, RETRIES, DEFERRALS, DEAD_LETTERS, BATCH_JOBS, SCHEDULE_LATENESS),
    *(SINK_REQUEST_DURATION, SINK_PAUSED, WEBHOOK_BREAKERS_OPEN),
    *(QUEUE_JOBS, QUEUE_OLDEST, QUEUE_DUE_JOBS, QUEUE_BACKLOG_JOBS, SCHEDULED_JOBS, BROKER_UP),
    *(WORKERS, WORKER_STARTS, WORKER_CRASHES, WORKER_RECYCLES),
    *(WORKER_MEMORY, WORKER_MEMORY_MAX, WORKER_SNAPSHOT_AGE, LOG_LINES_DROPPED, BUILD_INFO),
)
