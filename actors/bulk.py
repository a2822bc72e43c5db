"""Sends many jobs in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..brokers import get_broker
from .job import JobActor


def enqueue_many(actor: JobActor, jobs: Iterable[Mapping[str, Any]]) -> int:
    """Send many jobs to one actor; returns the number of jobs.

    Args:
        actor: an actor of :mod:`formrelay.actors`.
        jobs: any iterable of ``{"payload": …, "metadata": …}``. They are sent in chunks of up to
            500 jobs or 1 MB, so a generator of a million jobs needs little memory.

    Raises:
        InvalidJob, MessageTooLarge: a job cannot be sent. The first ``accepted`` jobs (an attribute
            of the error) are sent, the others are not.
        BrokerUnavailable, BrokerRefused: the first ``accepted`` jobs are sent. The chunk after them
            may be sent too: on Redis all or nothing of it, on RabbitMQ any part of it.
    """
    return get_broker().enqueue_many(actor.message(**job) for job in jobs)
