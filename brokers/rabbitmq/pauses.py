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
from contextlib import suppress
from typing import Any

from pika import spec

from ...core.clock import Clock
from ..errors import BrokerRefused, BrokerUnavailable
from .connection import Connect, Connection
from .errors import ChannelClosed, NoAnswer

logger = logging.getLogger("formrelay.brokers")

_ACCESS_REFUSED, _NOT_FOUND = 403, 404
#: Seconds between two checks, and so until every process notices a pause.
_CHECK_EVERY = 1.0
#: Seconds between two checks while the state cannot be read, and between two log lines about it.
_RECHECK_EVERY, _LOG_EVERY = 30.0, 300.0


def marker(queue: str, *, is_paused: bool) -> str:
    """Name of the exchange that exists while ``queue`` is paused or, if not ``is_paused``, runs."""
    return f"formrelay.{'paused' if is_paused else 'running'}.{queue}"


def is_paused(connection: Connection, queue: str, connect: Connect) -> bool:
    """Whether a queue is paused.

    Raises:
        as :func:`read_state`.
    """
    return read_state(connection, queue, connect, known=False)[0]


def read_state(
    connection: Connection, queue: str, connect: Connect, *, known: bool
) -> tuple[bool, bool]:
    """Whether a queue is paused, and whether a marker exchange says so.

    Args:
        known: the last known state, which is checked first.

    Raises:
        BrokerRefused: RabbitMQ cannot tell whether the queue is paused.
        BrokerUnavailable
    """
    for state in (known, not known):
        if _exists(connection, queue, is_paused=state):
            return state, True
    return _mark_first(connection, queue, connect)


def pause(connection: Connection, queue: str) -> None:
    """Pause a queue; no effect if it is paused already."""
    _set(connection, queue, is_paused=True)


def resume(connection: Connection, queue: str, connect: Connect) -> None:
    """Resume a queue; no effect if it is not paused."""
    _set(connection, queue, is_paused=False)
    with suppress(BrokerRefused, BrokerUnavailable):  # for workers of the previous version
        if _legacy_count(connect, queue) is not None:
            connection.try_call(spec.Queue.Delete(queue=_legacy_queue(queue)))


def _set(connection: Connection, queue: str, *, is_paused: bool) -> None:
    """Declare one marker, then delete the other, so that there is always at least one."""
    connection.calls(
        [_declaration(queue, is_paused=is_paused), _removal(queue, is_paused=not is_paused)]
    )


def _mark_first(connection: Connection, queue: str, connect: Connect) -> tuple[bool, bool]:
    """Declare the first marker of a queue, with the state that the previous version stored."""
    state = bool(_legacy_count(connect, queue))
    try:
        connection.try_call(_declaration(queue, is_paused=state))
    except ChannelClosed as error:
        if error.code != _ACCESS_REFUSED:
            raise
        return state, False
    if not state and _exists(connection, queue, is_paused=True):  # another process has paused it
        connection.try_call(_removal(queue, is_paused=False))
        return True, True
    return state, True


def _exists(connection: Connection, queue: str, *, is_paused: bool) -> bool:
    try:
        connection.try_call(_declaration(queue, is_paused=is_paused, passive=True))
    except ChannelClosed as error:
        if error.code != _NOT_FOUND:
            raise
        return False
    return True


def _declaration(queue: str, *, is_paused: bool, passive: bool = False) -> Any:
    name = marker(queue, is_paused=is_paused)
    return spec.Exchange.Declare(exchange=name, type="direct", durable=True, passive=passive)


def _removal(queue: str, *, is_paused: bool) -> Any:
    return spec.Exchange.Delete(exchange=marker(queue, is_paused=is_paused))


# -- the previous version: a queue that holds a message while the work queue is paused -------------


def _legacy_queue(queue: str) -> str:
    return f"formrelay.paused.{queue}"


def _legacy_count(connect: Connect, queue: str) -> int | None:
    """Return the number of messages in that queue; None if it does not exist.

    Uses a connection of its own, since RabbitMQ 4 does not answer while the queue's node is down.

    Raises:
        BrokerRefused: RabbitMQ cannot tell.
        BrokerUnavailable
    """
    connection = connect()
    try:
        found = connection.try_call(spec.Queue.Declare(queue=_legacy_queue(queue), passive=True))
    except ChannelClosed as error:
        if error.code == _NOT_FOUND and "down or inaccessible" not in error.text:
            return None
        raise
    except NoAnswer as error:
        raise BrokerRefused(error.message) from None
    finally:
        connection.close()
    return int(found.message_count)


class PauseMonitor:
    """Checks once a second whether one queue is paused. Used by one thread.

    Attributes:
        is_paused: the last known state.
        check_at: monotonic seconds of the next check.
    """

    def __init__(self, queue: str, clock: Clock, connect: Connect) -> None:
        self.is_paused = False
        self.check_at = 0.0
        self._queue = queue
        self._clock = clock
        self._connect = connect
        self._logged_at = -_LOG_EVERY

    def check(self, connection: Connection) -> None:
        """Update the state; keeps the last known state if RabbitMQ cannot tell.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        now = self._clock.monotonic()
        try:
            state, is_marked = read_state(
                connection, self._queue, self._connect, known=self.is_paused
            )
        except BrokerRefused as error:
            if not connection.is_open:
                raise
            state, is_marked = self.is_paused, False
            self._log(error.message, now)
        else:
            if not is_marked:
                self._log("no right to declare the marker exchange: see docs/brokers.md", now)
        self.check_at = now + (_CHECK_EVERY if is_marked else _RECHECK_EVERY)
        if state != self.is_paused:
            self.is_paused = state
            logger.info("paused" if state else "resumed", extra={"queue": self._queue})

    def _log(self, cause: str, now: float) -> None:
        if now - self._logged_at < _LOG_EVERY:
            return
        self._logged_at = now
        logger.warning(
            "cannot tell whether the queue is paused; keeping the last known state",
            extra={"queue": self._queue, "is_paused": self.is_paused, "error_message": cause},
        )
