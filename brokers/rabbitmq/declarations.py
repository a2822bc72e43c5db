"""Declares the topology, as far as the server, its nodes and our rights allow.

Three refusals are no reason to stop:

- an existing queue has another time-to-live or delivery limit: it is used unchanged;
- our user has no right to configure: existing queues are used, only a missing queue is an error;
- a delay queue or a queue of dead letters is on a node that is down (classic queues): the others go
  on, and writes to that queue are refused. RabbitMQ 4 does not even answer for it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable
from .connection import Connect, Connection
from .errors import ChannelClosed, NoAnswer
from .topology import Topology, delay_bindings, delay_declarations

logger = logging.getLogger("formrelay.brokers")

_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED = 403, 404, 406
#: What may differ in a queue that is there already.
_TOLERATED = ("x-message-ttl", "x-delivery-limit")
#: Of a durable classic queue, in RabbitMQ's 404.
_NODE_IS_DOWN = "down or inaccessible"
#: Seconds after which what did not answer is declared again.
_SILENT_FOR = 30.0


class Declared:
    """Remembers which parts of the topology exist on the server, and declares the others."""

    def __init__(self, topology: Topology, connect: Connect) -> None:
        self._topology = topology
        self._connect = connect
        self._ready: set[str] = set()
        self._said: set[str] = set()
        self._has_delays = False
        #: By name, until when (monotonic seconds) what did not answer is taken to be there.
        self._silent: dict[str, float] = {}
        # Many threads may send first at one time; RabbitMQ makes each queue slowly.
        self._lock = threading.RLock()

    def forget(self) -> None:
        """The server may have come back without its queues."""
        self._has_delays = False
        self._ready = set()

    def ensure(self, connection: Connection, queues: Iterable[str]) -> None:
        """Declare what these work queues need, unless that was done already.

        Raises:
            BrokerRefused: an existing queue or exchange differs; the message names the difference.
            BrokerUnavailable
        """
        ready = self._ready
        missing = [queue for queue in queues if queue not in ready]
        if self._has_delays and not missing:
            return
        with self._lock:
            if not self._has_delays:
                delays = delay_declarations(queue_type=self._topology.queue_type)
                self._declare(connection, delays, delay_bindings())
                self._has_delays = True
            for queue in missing:
                self._declare_queue(connection, queue)
                ready.add(queue)

    def _declare_queue(self, connection: Connection, queue: str) -> None:
        topology = self._topology
        declarations = [topology.exchange(queue), topology.dead(queue), topology.work(queue)]
        if topology.is_foreign_exchange(queue) and self._has_exchange(connection, queue):
            del declarations[0]  # whatever its type is
        self._declare(connection, declarations, topology.bindings(queue), needed=queue)

    def _has_exchange(self, connection: Connection, queue: str) -> bool:
        try:
            connection.try_call(_passive(self._topology.exchange(queue)))
        except ChannelClosed as error:
            if error.code != _NOT_FOUND:
                raise
            return False
        return True

    def _declare(
        self,
        connection: Connection,
        wanted: list[Any],
        bindings: list[Any],
        *,
        needed: str | None = None,
    ) -> None:
        """Declare, then bind.

        Args:
            needed: the queue without which nothing can be done.
        """
        now = time.monotonic()
        as_they_are = {name for name, until in self._silent.items() if until > now} - {needed}
        left = [one for one in wanted if _name(one) not in as_they_are]
        #: Original declarations of passively declared queues, by distance from the end.
        looked_for: dict[int, Any] = {}
        while left:
            try:
                answers, refusal = connection.try_calls(left)
            except NoAnswer:
                # RabbitMQ 4 does not answer for a classic queue whose node is down.
                self._silent |= {_name(one): now + _SILENT_FOR for one in left}
                raise
            for _ in answers:
                if looked_for.pop(len(left), None) is not None:
                    as_they_are.add(_name(left[0]))
                del left[0]
            if refusal is None:
                break
            first, original = left[0], looked_for.pop(len(left), None)
            if refusal.code == _ACCESS_REFUSED and original is None and not first.passive:
                for place, one in enumerate(left):
                    if not one.passive:
                        looked_for[len(left) - place] = one
                        left[place] = _passive(one)
            elif _is_down(refusal) and _name(first) != needed:
                self._say_down(refusal)
                as_they_are.add(_name(first))
                del left[0]
            elif _is_down(refusal):
                raise BrokerUnavailable(f"{refusal.message}; start that node") from None
            elif refusal.code == _NOT_FOUND and original is not None:
                self._declare_missing(connection, original)
                del left[0]
            else:
                left[0] = self._as_it_is(first, refusal, wanted)
        bindings = [one for one in bindings if _destination(one) not in as_they_are]
        connection.calls(bindings)

    def _declare_missing(self, connection: Connection, declaration: Any) -> None:
        """Declare a missing queue or exchange; the user may have the right for this name."""
        try:
            connection.try_call(declaration)
        except ChannelClosed as error:
            raise BrokerRefused(
                f"expected {_name(declaration)!r} to be there or to have the right to declare it, "
                f"got: {error.text}; give the user that right, or have another user run "
                "'formrelay queues' (docs/brokers.md says which rights are needed)"
            ) from None

    def _as_it_is(self, declaration: Any, error: ChannelClosed, wanted: Sequence[Any]) -> Any:
        """The declaration that fits the queue which is there.

        Raises:
            BrokerRefused: it must not differ so.
        """
        if error.code == _NOT_FOUND:
            raise BrokerRefused(
                f"expected the queues to be adopted at {error.where} to be there, got: "
                f"{error.text}; create them, or take them out of the list"
            ) from None
        if error.code != _PRECONDITION_FAILED:
            raise error
        found = fitted(declaration, error, _TOLERATED)
        if found is None or found.arguments == declaration.arguments:
            raise differences_of(error, wanted, self._connect) from None
        asked, kept = (one.arguments.get("x-message-ttl") for one in (declaration, found))
        if kept != asked and found.queue not in self._said:
            self._said.add(found.queue)
            logger.warning(
                "dead letters are kept for another time than asked, since their queue was made so: "
                "see docs/brokers.md",
                extra={"queue": found.queue, "asked_days": _days(asked), "kept_days": _days(kept)},
            )
        return found

    def _say_down(self, refusal: ChannelClosed) -> None:
        if refusal.text not in self._said:
            self._said.add(refusal.text)
            logger.error(
                "a queue is on a RabbitMQ node that is down; writes to it are refused",
                extra={"error_message": refusal.message},
            )


def _name(declaration: Any) -> str:
    if isinstance(declaration, spec.Queue.Declare):
        return str(declaration.queue)
    return str(declaration.exchange)


def _destination(binding: Any) -> str:
    return str(binding.queue if isinstance(binding, spec.Queue.Bind) else binding.destination)


def _passive(declaration: Any) -> Any:
    name = _name(declaration)
    if isinstance(declaration, spec.Queue.Declare):
        return spec.Queue.Declare(queue=name, passive=True)
    return spec.Exchange.Declare(exchange=name, type=declaration.type, passive=True)


def _is_down(refusal: ChannelClosed) -> bool:
    return refusal.code == _NOT_FOUND and _NODE_IS_DOWN in refusal.text


def _days(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 86_400_000, 3)


_TEXT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?P<kind>queue|exchange) '(?P<what>.+)' in vhost "
    r"'.*': received (?P<asked>.+?) but current is (?P<current>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?")
_INTEGERS = ("byte", "short", "signedint", "int", "long", "longlong", "timestamp")


def differences_of(
    error: ChannelClosed, declarations: Sequence[Any], connect: Connect
) -> BrokerRefused:
    """The error for declarations of which one was refused with ``error``.

    RabbitMQ names the first difference and closes the channel. So the declaration is repeated with
    the queue's own value of that argument until it fits; a declaration that fits changes nothing.
    """
    found = _TEXT.search(error.text)
    if found is None or found["kind"] != "queue":
        return BrokerRefused(
            f"{error.message}: delete it when it is empty, or give it the name that is expected"
        )
    name = found["what"]
    (declared,) = [
        one for one in declarations if isinstance(one, spec.Queue.Declare) and one.queue == name
    ]
    where = error.message.split(" refused", 1)[0]
    listed = "; ".join(_differences(error, declared, connect))
    return BrokerRefused(
        f"{where} has a queue {name!r} with other arguments than asked: {listed}. Put the "
        "setting back, or use the queue as it is (adopt it by name), or let it drain, delete it "
        "and start again, or give ours another name"
    )


def fitted(declared: Any, error: ChannelClosed, tolerated: Sequence[str]) -> Any:
    """The declaration of a queue with the queue's own value of the argument that was refused.

    Returns:
        None if another argument differs than those in ``tolerated``.
    """
    found = _TEXT.search(error.text)
    if found is None or found["kind"] != "queue" or found["name"] not in tolerated:
        return None
    arguments = dict(declared.arguments or {})
    asked = arguments.pop(found["name"], None)
    current = _read(found["current"], asked)
    if current is not None:
        arguments[found["name"]] = current
    return spec.Queue.Declare(queue=declared.queue, durable=True, arguments=arguments)


def _refusal(declared: Any, connect: Connect) -> ChannelClosed | None:
    connection = connect()  # a refusal closes the channel
    try:
        connection.call(declared)
    except ChannelClosed as error:
        return error
    finally:
        connection.close()
    return None


def _differences(error: ChannelClosed, declared: Any, connect: Connect) -> list[str]:
    differences = []
    arguments = dict(declared.arguments or {})
    durable = declared.durable
    seen: set[str] = set()
    while True:
        found = _TEXT.search(error.text)
        if found is None or found["name"] in seen:  # in other words than we know
            differences.append(error.text)
            break
        seen.add(found["name"])
        asked = arguments.get(found["name"])
        differences.append(_difference(found["name"], found["asked"], found["current"], asked))
        if found["name"] == "durable":
            durable = not durable
        elif found["name"].startswith("x-"):
            current = _read(found["current"], asked)
            arguments.pop(found["name"], None)
            if current is not None:
                arguments[found["name"]] = current
        else:
            break
        again = spec.Queue.Declare(queue=declared.queue, durable=durable, arguments=arguments)
        refusal = _refusal(again, connect)
        if refusal is None:
            break
        error = refusal
    return differences


def _difference(name: str, asked: str, current: str, like: Any) -> str:
    def plain(text: str) -> str:
        value = _read(text, like)
        if value is None and name == "x-queue-type":
            value = "classic"  # what a queue is where nothing was said
        return "none" if value is None else repr(value)

    return f"{name} expected {plain(asked)}, got {plain(current)}"


def _read(text: str, like: Any) -> Any:
    """The value in a text; RabbitMQ says its type only where that differs from ``like``'s."""
    found = _VALUE.fullmatch(text.strip().strip('"'))
    if found is None:
        return None
    value = found["value"]
    is_integer = found["type"] in _INTEGERS if found["type"] else isinstance(like, int)
    if is_integer and re.fullmatch(r"-?\d+", value):
        return int(value)
    return {"true": True, "false": False}.get(value, value)
