"""Many jobs in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..brokers import get_broker
from .job import JobActor


def enqueue_many(actor: JobActor, jobs: Iterable[Mapping[str, Any]]) -> int:
    """Send many jobs to one actor; returns their number.

    Args:
        jobs: any iterable of ``{"payload": …, "metadata": …}``. Memory stays flat with a generator
            of a million: jobs are sent in chunks of up to 500 jobs or 1 MB.

    Raises:
        InvalidJob, MessageTooLarge: a job cannot be sent. The first ``accepted`` jobs (an attribute
            of the error) are sent, and no others.
        BrokerUnavailable, BrokerRefused: the same, except that a chunk behind the ``accepted`` jobs
            may be sent: on Redis all of it or nothing, on RabbitMQ any part of it.
    """
    return get_broker().enqueue_many(actor.message(**job) for job in jobs)
