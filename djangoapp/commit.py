"""Sends the jobs of a transaction in groups, with one call to the broker for each group.

On commit, Django runs the callbacks of a transaction in order, without those of rolled-back
savepoints. Each job is a callback, and the first callback of a group sends the whole group. Jobs
belong to one group only if the transaction keeps all or none of them: no savepoint that can still
be rolled back separates them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dramatiq
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from dramatiq import Message

from .publishing import send_all, send_all_committed


class JobGroup:
    """Consecutive jobs that the transaction keeps or drops together.

    Attributes:
        savepoints: ids of the open savepoints around the jobs; rolling back any of them drops
            all of the jobs.
        earlier: the group directly before, which may be merged with this group later.
    """

    def __init__(
        self, broker: dramatiq.Broker, savepoints: frozenset[str], earlier: JobGroup | None
    ) -> None:
        self.broker = broker
        self.savepoints = savepoints
        self.earlier = earlier
        self.jobs: list[PendingJob] = []

    def merged(self, savepoints: frozenset[str]) -> JobGroup:
        """Merge this group with earlier groups after savepoints were released.

        A released savepoint cannot be rolled back by itself any more.

        Args:
            savepoints: ids of the savepoints that are still open.
        """
        group = self
        group.savepoints = savepoints
        while (earlier := group.earlier) is not None and savepoints <= earlier.savepoints:
            for job in group.jobs:
                job.group = earlier
            earlier.jobs += group.jobs
            earlier.savepoints = savepoints
            group = earlier
        return group

    def send_from(self, first: PendingJob) -> None:
        """Send ``first`` and the jobs after it.

        The jobs before it are sent already, unless a test runs selected callbacks
        (``captureOnCommitCallbacks``).
        """
        following = self.jobs[self.jobs.index(first) :]
        jobs = [job for job in following if not job.is_sent]
        send_all_committed(self.broker, [job.message for job in jobs])
        for job in jobs:
            job.is_sent = True
        for job in jobs:
            job.sent()


class PendingJob:
    """The commit callback of one job; ``sent`` is called when the broker has the message."""

    def __init__(self, message: Message[Any], group: JobGroup, sent: Callable[[], object]) -> None:
        self.message = message
        self.group = group
        self.sent = sent
        self.is_sent = False

    def __call__(self) -> None:
        if not self.is_sent:
            self.group.send_from(self)


def _nothing() -> None:
    """Do nothing."""


def send_on_commit(
    broker: dramatiq.Broker,
    message: Message[Any],
    using: str | None,
    *,
    sent: Callable[[], object] = _nothing,
) -> None:
    """Send a message when the transaction of a database commits; without a transaction, now.

    Args:
        using: alias of the database; None is the default database.
        sent: called when the broker has the message; must not raise.

    Raises:
        TransactionManagementError: autocommit is off and there is no ``atomic`` block (Django).
    """
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block:

        def send() -> None:
            send_all(broker, [message])
            sent()

        if connection.connection is None and connection.settings_dict.get("AUTOCOMMIT", True):
            send()  # Django would connect, or fail in a project without a database
        else:
            transaction.on_commit(send, using=using)
        return
    savepoints = _open_savepoints(connection)
    last = _last_callback(connection)
    before = last.group if isinstance(last, PendingJob) else None
    if before is not None and before.broker is not broker:
        before = None
    if before is not None and savepoints <= before.savepoints:
        group = before.merged(savepoints)
    else:
        group = JobGroup(broker, savepoints, before)
    job = PendingJob(message, group, sent)
    group.jobs.append(job)
    transaction.on_commit(job, using=using)


# Django has no public way to learn which savepoints are open and which callbacks a rollback has
# dropped. Only these two functions read its undocumented attributes;
# tests/djangoapp/test_enqueue.py fails if their shape changes.


def _open_savepoints(connection: BaseDatabaseWrapper) -> frozenset[str]:
    # An atomic block without a savepoint has None: its rollback rolls back the enclosing block.
    return frozenset(id for id in connection.savepoint_ids if id is not None)


def _last_callback(connection: BaseDatabaseWrapper) -> object:
    """Return the callback registered last that no rollback has dropped; None if there is none."""
    return connection.run_on_commit[-1][1] if connection.run_on_commit else None
