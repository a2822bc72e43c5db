"""The comparisons of workers as people start them, and the types of all comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Environment of stock Dramatiq with a large prefetch.
TUNED = {"dramatiq_queue_prefetch": "1000", "dramatiq_delay_queue_prefetch": "0"}


@dataclass(frozen=True)
class Contender:
    """A system to measure.

    Attributes:
        title: its name in the tables.
        name: its name in bench/contender.py.
        options: arguments of the measure.
        env: environment variables of its process.
        wanted: target for formrelay's median divided by the median of this contender.
    """

    title: str
    name: str
    options: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    wanted: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Contenders and the figure that compares them.

    Attributes:
        name: its name on the command line.
        title: the figure, with its unit.
        measure: a key of ``MEASURES`` in bench/contender.py.
        contenders: formrelay first.
        figure: the key of the result that is compared.
        is_joint: whether one run, with the options of the first contender, measures all
            contenders; it returns a result by title.
    """

    name: str
    title: str
    measure: str
    contenders: tuple[Contender, ...]
    figure: str = "per_second"
    is_joint: bool = False


def started_comparisons() -> list[Comparison]:
    """In the order of docs/benchmarks.md."""
    return [*_started(), *_log_lines(), *_started_sinks(), *_idle()]


def _started() -> list[Comparison]:
    """Workers as people start them. The jobs of slow contenders are fewer."""
    many, middle, few = {"count": 60_000}, {"count": 30_000}, {"count": 8_000}
    quiet, two = {"log_level": "error"}, {"processes": 2}
    how = "started, with default settings, a job with a system call"
    return [
        Comparison(
            "started-redis",
            f"One process on Redis, {how}: jobs/s",
            "started",
            (
                Contender("formrelay", "redis-ours", many | quiet),
                Contender("formrelay, with log lines", "redis-ours", many),
                Contender("BullMQ, concurrency 10", "redis-bullmq", middle, wanted=1.5),
                Contender("BullMQ, concurrency 100", "redis-bullmq", middle | {"concurrency": 100}),
                Contender("stock", "redis-stock", few, wanted=10),
                Contender("stock, prefetch 1000", "redis-stock", few, TUNED),
                Contender("Celery, default settings", "redis-celery", few),
            ),
        ),
        Comparison(
            "started-two",
            f"Two processes on Redis, {how}: jobs/s",
            "started",
            (
                Contender("formrelay, two processes", "redis-ours", many | quiet | two),
                Contender("formrelay, one process", "redis-ours", many | quiet, wanted=1.8),
                Contender("BullMQ, two processes", "redis-bullmq", middle | two),
                Contender("BullMQ, one process", "redis-bullmq", middle),
            ),
        ),
        Comparison(
            "started-rabbitmq",
            "One process on RabbitMQ (quorum queues; stock and Celery classic queues), "
            f"{how}: jobs/s",
            "started",
            (
                Contender("formrelay", "rabbitmq-ours", many | quiet),
                Contender("formrelay, with log lines", "rabbitmq-ours", many),
                Contender("BullMQ on Redis, concurrency 10", "redis-bullmq", middle, wanted=1),
                Contender("stock", "rabbitmq-stock", few, wanted=3),
                Contender("stock, prefetch 1000", "rabbitmq-stock", few, TUNED),
                Contender("Celery, default settings", "rabbitmq-celery", few),
            ),
        ),
    ]


def _started_sinks() -> list[Comparison]:
    """Webhooks and events with workers as people start them, with log lines."""
    webhooks, events = {"count": 20_000}, {"count": 150_000}
    two = {"processes": 2}
    return [
        Comparison(
            "started-webhooks",
            "Signed webhooks, started, with default settings, on Redis: deliveries/s",
            "delivered",
            (
                Contender("formrelay, one process", "redis-ours", webhooks),
                Contender("BullMQ, one process", "redis-bullmq", webhooks, wanted=1.2),
                Contender("formrelay, two processes", "redis-ours", webhooks | two),
                Contender("BullMQ, two processes", "redis-bullmq", webhooks | two),
            ),
        ),
        Comparison(
            "started-events",
            "Events into ClickHouse, one a message, started, with default settings, one process on "
            "Redis: events/s",
            "recorded",
            (
                Contender("formrelay", "redis-ours", events),
                Contender("BullMQ, buffers of 1,000", "redis-bullmq", events, wanted=3),
            ),
        ),
    ]


def _idle() -> list[Comparison]:
    return [
        Comparison(
            f"idle-{broker}",
            f"A worker without jobs on {title}, one process, default settings: seconds from its "
            "start to its first job",
            "idle",
            (
                Contender("formrelay, one queue", f"{broker}-ours", {}),
                Contender("formrelay, all queues", f"{broker}-ours", {"all_queues": True}),
                Contender("stock", f"{broker}-stock", {}),
                Contender("Celery, default settings", f"{broker}-celery", {}),
                *others,
            ),
            figure="first_job_s",
        )
        for broker, title, others in (
            ("redis", "Redis", [Contender("BullMQ, concurrency 10", "redis-bullmq", {})]),
            ("rabbitmq", "RabbitMQ", []),
        )
    ]


def _log_lines() -> list[Comparison]:
    job = {"count": 120_000}
    return [
        Comparison(
            f"log-lines-{broker}",
            f"dramatiq formrelay.worker on {title}, one process, default settings, a job with a "
            "system call, log lines switched on and off in turns: jobs/s",
            "log_lines",
            (
                Contender("with log lines", f"{broker}-ours", job),
                Contender("without", f"{broker}-ours", job, wanted=0.85),
            ),
            is_joint=True,
        )
        for broker, title in (("redis", "Redis"), ("rabbitmq", "RabbitMQ (quorum queues)"))
    ]
