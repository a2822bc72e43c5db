"""Declares the topology, and tolerates three refusals.

- An existing queue has another time-to-live or delivery limit: the queue is used unchanged.
- The user has no right to configure: existing queues are used; only a missing queue is an error.
- A classic delay queue or dead-letter queue is on a node that is down: all other queues are
  declared, and RabbitMQ refuses writes to that queue. RabbitMQ 4 does not even answer the
  declaration.
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
#: Arguments that may differ in an existing queue.
_TOLERATED = ("x-message-ttl", "x-delivery-limit")
#: Part of RabbitMQ's error text (404) for a durable classic queue whose node is down.
_NODE_IS_DOWN = "down or inaccessible"
#: Seconds until RabbitMQ is asked again to declare a queue for which it did not answer.
_SKIP_SECONDS = 30.0


class Declared:
    """Remembers which parts of the topology exist on the server, and declares the others."""

    def __init__(self, topology: Topology, connect: Connect) -> None:
        self._topology = topology
        self._connect = connect
        self._ready: set[str] = set()
        self._logged: set[str] = set()
        self._has_delays = False
        #: Monotonic seconds until which an unanswered declaration is not repeated, by name.
        self._unanswered: dict[str, float] = {}
        # RabbitMQ declares slowly: threads that send at the same time declare each queue once.
        self._lock = threading.RLock()

    def forget(self) -> None:
        """Declare everything again next time: the server may have lost its queues."""
        self._has_delays = False
        self._ready = set()

    def ensure(self, connection: Connection, queues: Iterable[str]) -> None:
        """Declare these work queues and the delay queues, unless that was done already.

        Raises:
            BrokerRefused: an existing queue or exchange differs; the text names the differences.
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
        declarations = [
            topology.exchange_declaration(queue),
            topology.dead_declaration(queue),
            topology.work_declaration(queue),
        ]
        if topology.is_foreign_exchange(queue) and self._has_exchange(connection, queue):
            del declarations[0]  # it may be of any type
        self._declare(connection, declarations, topology.bindings(queue), needed=queue)

    def _has_exchange(self, connection: Connection, queue: str) -> bool:
        try:
            connection.try_call(_as_passive(self._topology.exchange_declaration(queue)))
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
        """Declare queues and exchanges, then bind them.

        Args:
            needed: the queue whose node must not be down.
        """
        now = time.monotonic()
        skipped = {name for name, until in self._unanswered.items() if until > now} - {needed}
        left = [declaration for declaration in wanted if _name(declaration) not in skipped]
        originals: dict[int, Any] = {}
        while left:
            try:
                answers, refusal = connection.try_calls(left)
            except NoAnswer:
                # RabbitMQ 4 does not answer for a classic queue whose node is down.
                self._unanswered |= dict.fromkeys(map(_name, left), now + _SKIP_SECONDS)
                raise
            for _ in answers:
                if originals.pop(len(left), None) is not None:
                    skipped.add(_name(left[0]))
                del left[0]
            if refusal is None:
                break
            first, original = left[0], originals.pop(len(left), None)
            if refusal.code == _ACCESS_REFUSED and original is None and not first.passive:
                _make_passive(left, originals)
            elif _is_down(refusal) and _name(first) != needed:
                self._log_down(refusal)
                skipped.add(_name(first))
                del left[0]
            elif _is_down(refusal):
                raise BrokerUnavailable(f"{refusal.message}; start that node") from None
            elif refusal.code == _NOT_FOUND and original is not None:
                self._declare_missing(connection, original)
                del left[0]
            else:
                left[0] = self._fit(first, refusal, wanted)
        bindings = [one for one in bindings if _destination(one) not in skipped]
        connection.calls(bindings)

    def _declare_missing(self, connection: Connection, declaration: Any) -> None:
        """Declare a missing queue or exchange; the user may have the right for this name."""
        try:
            connection.try_call(declaration)
        except ChannelClosed as error:
            raise BrokerRefused(
                f"expected {_name(declaration)!r} to exist, or the right to declare it, "
                f"got: {error.text}; give the user that right, or have another user run "
                "'formrelay queues' (docs/brokers.md says which rights are needed)"
            ) from None

    def _fit(self, declaration: Any, error: ChannelClosed, wanted: Sequence[Any]) -> Any:
        """Return a declaration that fits the existing queue.

        Raises:
            BrokerRefused: an adopted queue is missing, or a queue differs in another argument.
        """
        if error.code == _NOT_FOUND:
            raise BrokerRefused(
                f"expected the adopted queues to exist on RabbitMQ at {error.where}, got: "
                f"{error.text}; create them, or remove them from RABBITMQ_ADOPT_QUEUES"
            ) from None
        if error.code != _PRECONDITION_FAILED:
            raise error
        found = fitted(declaration, error, _TOLERATED)
        if found is None or found.arguments == declaration.arguments:
            raise differences_of(error, wanted, self._connect) from None
        wanted_ttl, kept_ttl = (one.arguments.get("x-message-ttl") for one in (declaration, found))
        if kept_ttl != wanted_ttl and found.queue not in self._logged:
            self._logged.add(found.queue)
            logger.warning(
                "dead letters are kept for a different time than configured, because their queue "
                "already exists: see docs/brokers.md",
                extra={
                    "queue": found.queue,
                    "asked_days": _days(wanted_ttl),
                    "kept_days": _days(kept_ttl),
                },
            )
        return found

    def _log_down(self, refusal: ChannelClosed) -> None:
        if refusal.text not in self._logged:
            self._logged.add(refusal.text)
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


def _as_passive(declaration: Any) -> Any:
    name = _name(declaration)
    if isinstance(declaration, spec.Queue.Declare):
        return spec.Queue.Declare(queue=name, passive=True)
    return spec.Exchange.Declare(exchange=name, type=declaration.type, passive=True)


def _make_passive(left: list[Any], originals: dict[int, Any]) -> None:
    """Make declarations passive; keep the originals, by distance from the end of the list."""
    for place, declaration in enumerate(left):
        if not declaration.passive:
            originals[len(left) - place] = declaration
            left[place] = _as_passive(declaration)


def _is_down(refusal: ChannelClosed) -> bool:
    return refusal.code == _NOT_FOUND and _NODE_IS_DOWN in refusal.text


def _days(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 86_400_000, 3)


_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?P<kind>queue|exchange) '(?P<what>.+)' in vhost "
    r"'.*': received (?P<asked>.+?) but current is (?P<current>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?")
_INTEGERS = ("byte", "short", "signedint", "int", "long", "longlong", "timestamp")


def differences_of(
    error: ChannelClosed, declarations: Sequence[Any], connect: Connect
) -> BrokerRefused:
    """The error for a refused declaration, with every argument that differs.

    RabbitMQ names only the first difference. So the declaration is repeated with the queue's own
    value of that argument until RabbitMQ accepts it, which changes nothing on the server.
    """
    found = _INEQUIVALENT.search(error.text)
    if found is None or found["kind"] != "queue":
        return BrokerRefused(
            f"{error.message}; delete it if no other program uses it, or adopt its queue by name"
        )
    name = found["what"]
    (declared,) = [
        one for one in declarations if isinstance(one, spec.Queue.Declare) and one.queue == name
    ]
    where = error.message.split(" refused", 1)[0]
    listed = "; ".join(_differences(error, declared, connect))
    return BrokerRefused(
        f"{where} has a queue {name!r} with other arguments than expected: {listed}. Restore the "
        "setting, adopt the queue by name, drain and delete it, or choose another queue name"
    )


def fitted(declared: Any, error: ChannelClosed, tolerated: Sequence[str]) -> Any:
    """Return the declaration with the queue's own value of the argument that was refused.

    Returns:
        None if the argument is not in ``tolerated``.
    """
    found = _INEQUIVALENT.search(error.text)
    if found is None or found["kind"] != "queue" or found["name"] not in tolerated:
        return None
    arguments = dict(declared.arguments or {})
    asked = arguments.pop(found["name"], None)
    current = _parse_value(found["current"], asked)
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
        found = _INEQUIVALENT.search(error.text)
        if found is None or found["name"] in seen:  # an unknown error text
            differences.append(error.text)
            break
        seen.add(found["name"])
        asked = arguments.get(found["name"])
        differences.append(_difference(found["name"], found["asked"], found["current"], asked))
        if found["name"] == "durable":
            durable = not durable
        elif found["name"].startswith("x-"):
            current = _parse_value(found["current"], asked)
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
        value = _parse_value(text, like)
        if value is None and name == "x-queue-type":
            value = "classic"  # the server's default
        return "none" if value is None else repr(value)

    return f"{name} expected {plain(asked)}, got {plain(current)}"


def _parse_value(text: str, like: Any) -> Any:
    """Parse a value; RabbitMQ names its type only if it differs from the type of ``like``."""
    found = _VALUE.fullmatch(text.strip().strip('"'))
    if found is None:
        return None
    value = found["value"]
    is_integer = found["type"] in _INTEGERS if found["type"] else isinstance(like, int)
    if is_integer and re.fullmatch(r"-?\d+", value):
        return int(value)
    return {"true": True, "false": False}.get(value, value)
