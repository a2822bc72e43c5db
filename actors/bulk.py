"""Many jobs in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..brokers import get_broker
from .job import JobActor


def enqueue_many(actor: JobActor, jobs: Iterable[Mapping[str, Any]]) -> int:
    """Send many jobs to one actor; returns how many.

    Args:
        jobs: any iterable of ``{"payload": …, "metadata": …}``; a generator of a
            million is fine, memory holds some hundreds at a time.

    Raises:
        InvalidJob: a job does not fit; those of the chunks before it were sent.
        BrokerUnavailable, BrokerRefused, MessageTooLarge: as for ``send()``.
    """
    return get_broker().enqueue_many(actor.message(**job) for job in jobs)
