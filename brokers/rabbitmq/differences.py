"""A queue that exists otherwise than asked: one error that names each difference.

RabbitMQ names the first difference and closes the channel. So the declaration
is repeated with the queue's own value of that argument until it fits; a
declaration that fits changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pika import spec

from ..errors import BrokerRefused
from .errors import ChannelClosed
from .link import Connect

_TEXT = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?P<kind>queue|exchange) '(?P<what>.+)' in vhost "
    r"'.*': received (?P<asked>.+?) but current is (?P<current>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '(?P<type>\w+)')?")
_INTEGERS = ("byte", "short", "signedint", "int", "long", "longlong", "timestamp")


def differences_of(
    error: ChannelClosed, declarations: Sequence[Any], connect: Connect
) -> BrokerRefused:
    """The error for declarations of which one was refused with ``error``."""
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
    link = connect()  # a refusal closes the channel
    try:
        link.call(declared)
    except ChannelClosed as error:
        return error
    finally:
        link.close()
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
