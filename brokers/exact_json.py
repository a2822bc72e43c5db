"""Refuses encoders that would not be used, and arguments that JSON would change silently."""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from typing import Any

from dramatiq import Message, get_encoder
from dramatiq.encoder import JSONEncoder

from ..core.errors import ConfigError, InvalidJob

#: Types that JSON keeps; a tuple becomes a list, as in stock Dramatiq.
_JSON = (str, int, float, bool, type(None), dict, list, tuple)


def check_encoder() -> None:
    """Check that the program has not set an encoder, since formrelay's brokers write JSON.

    Raises:
        ConfigError: it has, by ``dramatiq.set_encoder()``.
    """
    encoder = type(get_encoder())
    if encoder is not JSONEncoder:
        raise ConfigError(
            f"expected Dramatiq's JSONEncoder, got {encoder.__name__}: formrelay's brokers write "
            "JSON, which programs in other languages read; remove dramatiq.set_encoder()"
        )


def check_exact(message: Message[Any]) -> None:
    """Check that JSON keeps the arguments of a message.

    Raises:
        InvalidJob: names the type of an argument that JSON would change.
    """
    try:
        # Takes built-in types alone, and is much faster than a loop.
        marshal.dumps((message.args, message.kwargs))
        return
    except ValueError:
        pass
    for value in _values((message.args, message.kwargs)):
        # Stock Dramatiq sends the value of a subclass of these types too.
        if not isinstance(value, _JSON):
            raise InvalidJob(
                f"expected arguments that JSON can hold: got {type(value).__name__}, which would "
                "arrive as text; send str(value) or its value"
            )


def _values(value: Any) -> Iterator[Any]:
    left = [value]
    while left:
        value = left.pop()
        yield value
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
