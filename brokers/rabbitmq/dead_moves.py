"""Moves dead letters to the end of their queue, and recognises letters that are there twice.

A letter is published again before it is removed at its old place. A process that is killed in
between leaves some letters twice. (An AMQP transaction would prevent that, but not lose nothing:
RabbitMQ may write the removal to the log of a quorum queue before the publish, and crash.)

So an exchange marks the queue while a process moves letters. A process that finds the marker, with
the lock of :mod:`.dead_lock`, knows that another was killed, and first moves all letters once: of
each letter that it meets twice, with the same id, body and failure, it removes the second.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TypeAlias

import orjson

from ...core.failure import Failure
from ..entries import Entry
from ..errors import BrokerRefused, BrokerUnavailable
from ..steps import chunks
from . import codec
from .client import FAILURE_HEADER, RabbitClient
from .connection import Connection
from .dead_letters import CHUNK, DeadLetterReader
from .dead_lock import lock_name, marker, remove_marker
from .publish_call import Publication

#: A dead letter as it was received, and decoded.
Letter: TypeAlias = tuple[codec.Content, Entry]

#: The header of a moved letter: by which turn it was moved.
_TURN_HEADER = "x-formrelay-moved"


class LetterMover:
    """Moves dead letters of one queue during one turn, in which each letter is met once.

    Args:
        recognises: whether to recognise letters that are in the queue twice.
        waiting: whether to move the waiting messages instead.
    """

    def __init__(
        self,
        client: RabbitClient,
        queue: str,
        *,
        recognises: bool = False,
        waiting: bool = False,
    ) -> None:
        self._client = client
        self._queue = queue
        self._name = queue if waiting else client.topology.dead_queue(queue)
        self._lock = lock_name(queue, waiting=waiting)
        self._turn = secrets.token_hex(8)
        #: The letters that were moved in this turn; None if they are not to be recognised.
        self._met: set[bytes] | None = set() if recognises else None
        self._is_marked = False
        #: Whether some letters may be in the queue twice.
        self._is_midway = False

    # -- recognising -------------------------------------------------------------------

    def is_met(self, letter: Letter, here: set[bytes]) -> bool:
        """Whether the same letter was met before: a killed process left it twice.

        Args:
            here: digests of the letters that were met and not moved yet; this one is added.
        """
        if self._met is None or (digest := _digest(letter)) is None:
            return False
        is_met = digest in self._met or digest in here
        here.add(digest)
        return is_met

    def is_moved(self, content: codec.Content) -> bool:
        """Whether this turn moved the letter: the turn is complete."""
        if not content.has_headers:
            return False
        return (content.properties.headers or {}).get(_TURN_HEADER) == self._turn

    # -- moving ------------------------------------------------------------------------

    def move(self, reader: DeadLetterReader, letters: Sequence[Letter]) -> None:
        """Move dead letters, unchanged, to the end of their queue."""
        for some in chunks(letters, CHUNK):
            self._mark(reader)
            self._is_midway = True
            self.publish([(content, entry, entry.raw) for content, entry in some])
            reader.remove([content for content, _ in some], are_moved=True)
            if self._met is not None:
                self._met.update(filter(None, map(_digest, some)))
            self._is_midway = False

    def _mark(self, reader: DeadLetterReader) -> None:
        if not self._is_marked:
            reader.control.call(marker(self._lock))
            self._is_marked = True

    def publish(self, letters: Sequence[tuple[codec.Content, Entry, bytes]]) -> None:
        """Publish dead letters with these bodies at the end of their queue."""
        self._client.publish(
            [
                Publication(self._queue, "", self._name, self._head(content, entry), body)
                for content, entry, body in letters
            ]
        )

    def unmark(self, connection: Connection) -> None:
        """Remove the marker, unless some letters may be in the queue twice; raises nothing."""
        if self._is_marked and not self._is_midway:
            with suppress(BrokerUnavailable, BrokerRefused):
                remove_marker(connection, self._lock)
            self._is_marked = False

    def _head(self, content: codec.Content, entry: Entry) -> bytes:
        properties = content.properties
        properties.delivery_mode = 2
        headers = {**(properties.headers or {}), _TURN_HEADER: self._turn}
        # RabbitMQ adds the number of redeliveries, which begins anew.
        headers.pop("x-delivery-count", None)
        if "x-death" in headers and FAILURE_HEADER not in headers and entry.failure is not None:
            # RabbitMQ need not keep its own header in a message that a client publishes.
            headers[FAILURE_HEADER] = recorded(entry.failure)
        properties.headers = headers
        if (expiration := self._time_left(entry)) is not None:
            properties.expiration = str(expiration)
        return codec.encoded(properties)

    def _time_left(self, entry: Entry) -> int | None:
        """Milliseconds until a dead letter has been kept for long enough."""
        topology = self._client.topology
        if entry.died is None or topology.dead_queue(self._queue) in topology.adopted:
            return None
        age = timedelta(seconds=max(0.0, self._client.clock.time() - entry.died))
        return max(1_000, int((topology.retention - age) / timedelta(milliseconds=1)))


def recorded(failure: Failure) -> str:
    """Encode a failure for :data:`.client.FAILURE_HEADER`."""
    return orjson.dumps(failure.to_json()).decode()


def _digest(letter: Letter) -> bytes | None:
    """Digest of id, body and failure; None without an id: equal bodies may be two jobs."""
    content, entry = letter
    if not content.message_id:
        return None
    failure = b"" if entry.failure is None else recorded(entry.failure).encode()
    id = content.message_id.encode(errors="surrogateescape")
    found = hashlib.blake2b(content.body, digest_size=16)
    found.update(b"%d:%b%b" % (len(id), id, failure))
    return found.digest()
