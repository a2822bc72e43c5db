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

from ...core.process import current_pid
from ..errors import BrokerRefused, BrokerUnavailable
from .connection import Connection
from .errors import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, ChannelClosed, NoAnswer
from .topology import Topology

logger = logging.getLogger("formrelay.brokers")

#: Arguments that may differ in an existing queue.
_TOLERATED = {"x-message-ttl", "x-delivery-limit"}
_BINDINGS = spec.Queue.Bind | spec.Exchange.Bind
#: Seconds until RabbitMQ is asked again to declare a queue for which it did not answer.
_SKIP_SECONDS = 30.0


class Declared:
    """Remembers which parts of the topology exist on the server, and declares the others."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._ready: set[str] = set()
        self._logged: set[str] = set()
        self._has_delays = False
        #: Monotonic seconds until which an unanswered declaration is not repeated, by name.
        self._unanswered: dict[str, float] = {}
        # RabbitMQ declares slowly: threads that send at the same time declare each queue once.
        self._lock = threading.RLock()
        self._pid = current_pid()

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
        missing = [queue for queue in queues if queue not in self._ready]
        if self._has_delays and not missing:
            return
        topology = self._topology
        if self._pid != current_pid():  # after a fork, during which a thread may have held the lock
            self._lock, self._pid = threading.RLock(), current_pid()
        with self._lock:
            ready = self._ready
            if not self._has_delays:
                self._declare(connection, topology.of_delays())
                self._has_delays = True
            for queue in missing:
                if queue in ready:  # another thread has declared it meanwhile
                    continue
                exchange, *others = topology.of_queue(queue)
                # A foreign exchange may be of any type.
                is_known = topology.is_foreign_exchange(queue) and connection.find(
                    _as_passive(exchange)
                )
                self._declare(connection, others if is_known else [exchange, *others], needed=queue)
                ready.add(queue)

    def _declare(
        self, connection: Connection, parts: Sequence[Any], *, needed: str | None = None
    ) -> None:
        """Declare queues and exchanges, then bind them.

        Args:
            parts: declarations and bindings.
            needed: the queue whose node must not be down.
        """
        now = time.monotonic()
        skipped = {name for name, until in self._unanswered.items() if until > now} - {needed}
        bindings = [part for part in parts if isinstance(part, _BINDINGS)]
        left = [
            part for part in parts if not isinstance(part, _BINDINGS) and _name(part) not in skipped
        ]
        may_configure = True
        while left:
            methods = left if may_configure else list(map(_as_passive, left))
            try:
                answers, refusal = connection.try_calls(methods)
            except NoAnswer:
                # RabbitMQ 4 does not answer for a classic queue whose node is down.
                self._unanswered |= dict.fromkeys(map(_name, left), now + _SKIP_SECONDS)
                raise
            found, left = left[: len(answers)], left[len(answers) :]
            if not may_configure:  # the user that declared these has bound them
                skipped |= {_name(declaration) for declaration in found if not declaration.passive}
            if refusal is None:
                break
            first = left[0]
            if refusal.code == ACCESS_REFUSED and may_configure and not first.passive:
                may_configure = False
                continue
            del left[0]
            if refusal.is_node_down and _name(first) != needed:
                self._log_down(refusal)
                skipped.add(_name(first))
            elif refusal.is_node_down:
                raise BrokerUnavailable(f"{refusal.message}; start that node")
            elif refusal.code == NOT_FOUND and not first.passive:
                self._declare_missing(connection, first)
            else:
                self._fit(connection, first, refusal)
        connection.calls([one for one in bindings if _destination(one) not in skipped])

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

    def _fit(self, connection: Connection, declaration: Any, refusal: ChannelClosed) -> None:
        """Use an existing queue unchanged, if it differs only in tolerated arguments.

        RabbitMQ names only the first difference. So the declaration is repeated with the queue's
        own value of that argument until RabbitMQ accepts it, which changes nothing on the server.

        Raises:
            BrokerRefused: an adopted queue is missing, or a queue differs in other arguments.
        """
        where = f"RabbitMQ at {refusal.where}"
        if refusal.code == NOT_FOUND:
            raise BrokerRefused(
                f"expected the adopted queues to exist on {where}, got: {refusal.text}; create "
                "them, or remove them from RABBITMQ_ADOPT_QUEUES"
            )
        if refusal.code != PRECONDITION_FAILED:
            raise refusal
        found = _INEQUIVALENT.search(refusal.text)
        if found is None or found["kind"] != "queue":
            raise BrokerRefused(
                f"{refusal.message}; delete it if no other program uses it, or adopt its queue by "
                "name"
            )
        fitted, differences = declaration, dict[str, str]()
        again: ChannelClosed | None = refusal
        while again is not None:
            found = _INEQUIVALENT.search(again.text)
            if found is None or found["name"] in differences:  # an unknown error text
                differences[again.text] = again.text
                break
            name = found["name"]
            like = (fitted.arguments or {}).get(name)
            asked, current = (_parse(found[place], like) for place in ("asked", "current"))
            differences[name] = (
                f"{name} expected {_shown(name, asked)}, got {_shown(name, current)}"
            )
            if name != "durable" and not name.startswith("x-"):
                break
            fitted = _with_argument(fitted, name, current)
            again = connection.try_calls([fitted])[1]
        if not differences.keys() <= _TOLERATED:
            raise BrokerRefused(
                f"{where} has a queue {declaration.queue!r} with other arguments than expected: "
                f"{'; '.join(differences.values())}. Restore the setting, adopt the queue by name, "
                "drain and delete it, or choose another queue name; if it is stock Dramatiq's, run "
                "'formrelay queues from-stock'"
            )
        self._log_retention(declaration, fitted)

    def _log_retention(self, wanted: Any, found: Any) -> None:
        asked, kept = (one.arguments.get("x-message-ttl") for one in (wanted, found))
        if asked != kept and found.queue not in self._logged:
            self._logged.add(found.queue)
            logger.warning(
                "dead letters are kept for a different time than configured, because their queue "
                "already exists: see docs/brokers.md",
                extra={
                    "queue": found.queue,
                    "asked_days": _days(asked),
                    "kept_days": _days(kept),
                },
            )

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


def _days(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 86_400_000, 3)


# -- differences of an existing queue ------------------------------------------------------

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?P<kind>queue|exchange) '(?P<what>.+)' in vhost "
    r"'.*': received (?P<asked>.+?) but current is (?P<current>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?")
_INTEGERS = ("byte", "short", "signedint", "int", "long", "longlong", "timestamp")


def _with_argument(declaration: Any, name: str, value: Any) -> Any:
    """Return the declaration with another value of one argument; None: without the argument."""
    durable, arguments = declaration.durable, dict(declaration.arguments or {})
    if name == "durable":
        durable = not durable
    else:
        arguments.pop(name, None)
        if value is not None:
            arguments[name] = value
    return spec.Queue.Declare(queue=declaration.queue, durable=durable, arguments=arguments)


def _parse(text: str, like: Any) -> Any:
    """Parse a value; RabbitMQ names its type only if it differs from the type of ``like``."""
    found = _VALUE.fullmatch(text.strip().strip('"'))
    if found is None:
        return None
    value = found["value"]
    is_integer = found["type"] in _INTEGERS if found["type"] else isinstance(like, int)
    if is_integer and re.fullmatch(r"-?\d+", value):
        return int(value)
    return {"true": True, "false": False}.get(value, value)


def _shown(name: str, value: Any) -> str:
    if value is None and name == "x-queue-type":
        value = "classic"  # the server's default
    return "none" if value is None else repr(value)
