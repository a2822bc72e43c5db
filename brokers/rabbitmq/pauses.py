"""Pauses queues for the workers of all processes.

AMQP cannot pause a queue. So one of two marker exchanges exists, ``formrelay.running.<queue>`` or
``formrelay.paused.<queue>``, and workers check for it with a passive declaration.

Why exchanges: every node of a cluster has them, so the state survives the loss of a node. A classic
queue is lost with its node, and a quorum queue without a leader reports no messages. Why two: the
usual check then succeeds; RabbitMQ logs each failed check. Why not a message: a server that is
short of memory stops reading from clients that publish.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from pika import spec

from ..errors import BrokerRefused
from .client import RabbitClient
from .connection import Connection
from .errors import ACCESS_REFUSED

logger = logging.getLogger("formrelay.brokers")

#: Seconds between two checks, and so until every process notices a pause.
_CHECK_EVERY = 1.0
#: Seconds between two checks while the state cannot be read, and between two log lines about it.
_RECHECK_EVERY, _LOG_EVERY = 30.0, 300.0


def marker(queue: str, *, is_paused: bool) -> str:
    """Name of the exchange that exists while ``queue`` is paused or, if not ``is_paused``, runs."""
    return f"formrelay.{'paused' if is_paused else 'running'}.{queue}"


class QueuePause:
    """Whether one queue is paused. Used by one thread.

    Attributes:
        is_paused: the last known state.
        check_at: monotonic seconds of the next check.
    """

    def __init__(self, client: RabbitClient, queue: str) -> None:
        self.is_paused = False
        self.check_at = 0.0
        self._queue = queue
        self._client = client
        self._logged_at = -_LOG_EVERY

    def set(self, connection: Connection, *, is_paused: bool) -> None:
        """Pause or resume the queue; no effect if it is paused or runs already."""
        # Declare first, so that there is always at least one marker.
        connection.calls([self._marker(is_paused), self._removal(not is_paused)])

    def read(self, connection: Connection) -> bool:
        """Update the state; returns whether a marker exchange says so.

        Raises:
            BrokerRefused: RabbitMQ cannot tell whether the queue is paused.
            BrokerUnavailable
        """
        known = self.is_paused
        for is_paused in (known, not known):
            if connection.find(self._marker(is_paused, passive=True)):
                self.is_paused = is_paused
                return True
        # The first check of a queue that has never been paused.
        _, refusal = connection.try_calls([self._marker(False)])
        if refusal is not None and refusal.code != ACCESS_REFUSED:
            raise refusal
        self.is_paused = False
        if refusal is not None:
            return False
        if connection.find(self._marker(True, passive=True)):
            self.is_paused = True  # another process has paused it meanwhile
            connection.try_call(self._removal(False))
        return True

    def check(self, connection: Connection) -> None:
        """Update and log the state; keeps the last known state if RabbitMQ cannot tell.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        now, before = self._client.clock.monotonic(), self.is_paused
        try:
            is_marked = self.read(connection)
        except BrokerRefused as error:
            if not connection.is_open:
                raise
            is_marked = False
            self._log(error.message, now)
        else:
            if not is_marked:
                self._log("no right to declare the marker exchange: see docs/brokers.md", now)
        self.check_at = now + (_CHECK_EVERY if is_marked else _RECHECK_EVERY)
        if self.is_paused != before:
            logger.info("paused" if self.is_paused else "resumed", extra={"queue": self._queue})

    def _log(self, cause: str, now: float) -> None:
        if now - self._logged_at < _LOG_EVERY:
            return
        self._logged_at = now
        logger.warning(
            "cannot tell whether the queue is paused; keeping the last known state",
            extra={"queue": self._queue, "is_paused": self.is_paused, "error_message": cause},
        )

    @property
    def running_marker(self) -> Any:
        """The passive declaration of the marker that exists while the queue runs."""
        return self._marker(False, passive=True)

    def _marker(self, is_paused: bool, *, passive: bool = False) -> Any:
        name = marker(self._queue, is_paused=is_paused)
        return spec.Exchange.Declare(exchange=name, type="direct", durable=True, passive=passive)

    def _removal(self, is_paused: bool) -> Any:
        return spec.Exchange.Delete(exchange=marker(self._queue, is_paused=is_paused))


def read_pauses(
    client: RabbitClient, connection: Connection, queues: Iterable[str]
) -> dict[str, bool | None]:
    """Read whether queues are paused; None: RabbitMQ cannot tell.

    One round trip for all queues that run, and some for each queue that is paused.
    """
    found: dict[str, bool | None] = {}
    left = list(queues)
    while left:
        markers = [QueuePause(client, queue).running_marker for queue in left]
        answers, refusal = connection.try_calls(markers)
        found |= dict.fromkeys(left[: len(answers)], False)
        if refusal is None:
            break
        queue, left = left[len(answers)], left[len(answers) + 1 :]
        pause = QueuePause(client, queue)
        pause.is_paused = True  # look for this marker first
        try:
            pause.read(connection)
            found[queue] = pause.is_paused
        except BrokerRefused:
            found[queue] = None
    return found
