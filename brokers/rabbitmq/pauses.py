"""Which queues are paused, for the workers of all processes.

AMQP has no such state. Here one of two exchanges exists, ``formrelay.running.<queue>`` or
``formrelay.paused.<queue>``, and is asked for by a passive declaration.

Why exchanges: every node of a cluster has them, so that the loss of a node hides none. A classic
queue is gone with its node, and a quorum queue says that it holds no messages while it has no
leader. Why two: the usual answer is then no refusal, which RabbitMQ would write to its log. Why not
by publishing: a server that is short of memory stops listening to whoever publishes.
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
#: Seconds within which every process notices that a queue was paused or resumed.
_PAUSED_WITHIN = 1.0
#: Seconds between two looks where the state cannot be read, and between two lines about that.
_LOOK_AGAIN, _SAY_AGAIN = 30.0, 300.0


def marker(queue: str, *, is_paused: bool) -> str:
    """The name of the exchange that exists while ``queue`` is, or is not, paused."""
    return f"formrelay.{'paused' if is_paused else 'running'}.{queue}"


def is_paused(connection: Connection, queue: str, connect: Connect) -> bool:
    """Whether a queue is paused.

    Raises:
        as :func:`read`.
    """
    return read(connection, queue, connect, before=False)[0]


def read(
    connection: Connection, queue: str, connect: Connect, *, before: bool
) -> tuple[bool, bool]:
    """Whether a queue is paused, and whether that is marked by an exchange.

    Args:
        before: the last known state, which is asked for first.

    Raises:
        BrokerRefused: RabbitMQ cannot tell.
        BrokerUnavailable
    """
    for state in (before, not before):
        if _exists(connection, queue, is_paused=state):
            return state, True
    return _mark_first(connection, queue, connect)


def pause(connection: Connection, queue: str) -> None:
    """Pause a queue, whether or not it is paused."""
    _set(connection, queue, is_paused=True)


def resume(connection: Connection, queue: str, connect: Connect) -> None:
    """Resume a queue, whether or not it is paused."""
    _set(connection, queue, is_paused=False)
    with suppress(BrokerRefused, BrokerUnavailable):  # workers of the version before ask it
        if _count_before(connect, queue) is not None:
            connection.try_call(spec.Queue.Delete(queue=_queue_before(queue)))


def _set(connection: Connection, queue: str, *, is_paused: bool) -> None:
    """In this order and in one write, so that one of the two exists at each moment."""
    connection.calls(
        [_declaration(queue, is_paused=is_paused), _removal(queue, is_paused=not is_paused)]
    )


def _mark_first(connection: Connection, queue: str, connect: Connect) -> tuple[bool, bool]:
    """Mark a queue for the first time, as the version before this one has left it."""
    state = bool(_count_before(connect, queue))
    try:
        connection.try_call(_declaration(queue, is_paused=state))
    except ChannelClosed as error:
        if error.code != _ACCESS_REFUSED:
            raise
        return state, False
    if not state and _exists(connection, queue, is_paused=True):  # paused meanwhile
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


# -- as it was before: a queue that holds a message while another one is paused -------------------


def _queue_before(queue: str) -> str:
    return f"formrelay.paused.{queue}"


def _count_before(connect: Connect, queue: str) -> int | None:
    """The number of messages in that queue; None where there is no such queue.

    Asked on a connection of its own, since RabbitMQ 4 does not answer while its node is down.

    Raises:
        BrokerRefused: RabbitMQ cannot tell.
        BrokerUnavailable
    """
    connection = connect()
    try:
        found = connection.try_call(spec.Queue.Declare(queue=_queue_before(queue), passive=True))
    except ChannelClosed as error:
        if error.code == _NOT_FOUND and "down or inaccessible" not in error.text:
            return None
        raise
    except NoAnswer as error:
        raise BrokerRefused(error.message) from None
    finally:
        connection.close()
    return int(found.message_count)


class PauseWatch:
    """Whether one queue is paused, asked once a second. Used by one thread.

    Attributes:
        is_paused: the last known state.
        look_at: monotonic seconds of the next look.
    """

    def __init__(self, queue: str, clock: Clock, connect: Connect) -> None:
        self.is_paused = False
        self.look_at = 0.0
        self._queue = queue
        self._clock = clock
        self._connect = connect
        self._logged_at = -_SAY_AGAIN

    def look(self, connection: Connection) -> None:
        """Ask for the state; where RabbitMQ cannot tell, the last known one holds.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        now = self._clock.monotonic()
        try:
            state, is_marked = read(connection, self._queue, self._connect, before=self.is_paused)
        except BrokerRefused as error:
            if not connection.is_open:
                raise
            state, is_marked = self.is_paused, False
            self._say(error.message, now)
        else:
            if not is_marked:
                self._say("no right to declare the exchange that says so: see docs/brokers.md", now)
        self.look_at = now + (_PAUSED_WITHIN if is_marked else _LOOK_AGAIN)
        if state != self.is_paused:
            self.is_paused = state
            logger.info("paused" if state else "resumed", extra={"queue": self._queue})

    def _say(self, cause: str, now: float) -> None:
        if now - self._logged_at < _SAY_AGAIN:
            return
        self._logged_at = now
        logger.warning(
            "cannot tell whether the queue is paused; the last known state holds",
            extra={"queue": self._queue, "is_paused": self.is_paused, "error_message": cause},
        )
