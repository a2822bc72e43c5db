"""The jobs of a transaction: those that share their fate are sent together.

Django runs the callbacks of a transaction one by one, in order, and drops those of a
savepoint that is rolled back. So each job is a callback of its own, and the first of a
group that is called sends the whole group. In a group are only jobs of which it is certain
by then that the transaction keeps all or none of them: no savepoint that can still be rolled
back was begun between them.
"""

from __future__ import annotations

from typing import Any

import dramatiq
from django.db import transaction
from dramatiq import Message

from .delivering import send_all, send_all_committed


class Group:
    """Jobs, one behind the other, that share their fate.

    Attributes:
        fate: the savepoints in which they stand: a rollback of one takes all of them, and
            nothing else does, short of the whole transaction's.
        earlier: the group directly before it, which may come to share its fate.
    """

    def __init__(
        self, broker: dramatiq.Broker, fate: frozenset[str], earlier: Group | None
    ) -> None:
        self.broker = broker
        self.fate = fate
        self.earlier = earlier
        self.jobs: list[Pending] = []

    def narrowed(self, fate: frozenset[str]) -> Group:
        """This group, with those before it that share its fate now that others of its
        savepoints are over: what is over cannot be rolled back by itself any more."""
        group = self
        group.fate = fate
        while (earlier := group.earlier) is not None and fate <= earlier.fate:
            for job in group.jobs:
                job.group = earlier
            earlier.jobs += group.jobs
            earlier.fate = fate
            group = earlier
        return group

    def send_from(self, first: Pending) -> None:
        """Send ``first`` and those behind it.

        Not those before it: when this is called they are sent, but for callbacks that
        somebody picks out (``captureOnCommitCallbacks`` in a test).
        """
        behind = self.jobs[self.jobs.index(first) :]
        jobs = [job for job in behind if not job.is_sent]
        send_all_committed(self.broker, [job.message for job in jobs])
        for job in jobs:
            job.is_sent = True


class Pending:
    """The callback of one job."""

    def __init__(self, message: Message[Any], group: Group) -> None:
        self.message = message
        self.group = group
        self.is_sent = False

    def __call__(self) -> None:
        if not self.is_sent:
            self.group.send_from(self)


def send_on_commit(broker: dramatiq.Broker, message: Message[Any], using: str | None) -> None:
    """Send a message when the transaction of a database commits; without one, now.

    Raises:
        TransactionManagementError: Django's, with autocommit off and no ``atomic`` block.
    """
    connection = transaction.get_connection(using)
    if not connection.in_atomic_block:
        transaction.on_commit(lambda: send_all(broker, [message]), using=using)
        return
    # A block without a savepoint has None there, and takes the whole one around it along.
    fate = frozenset(one for one in connection.savepoint_ids if one is not None)
    last = connection.run_on_commit[-1][1] if connection.run_on_commit else None
    before = last.group if isinstance(last, Pending) else None
    if before is not None and before.broker is not broker:
        before = None
    if before is not None and fate <= before.fate:
        group = before.narrowed(fate)
    else:
        group = Group(broker, fate, before)
    job = Pending(message, group)
    group.jobs.append(job)
    transaction.on_commit(job, using=using)
