"""Finds JSON that would not survive being read and written by orjson.

orjson reads an integer of more than 64 bits as a float, and writes NaN and infinity as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

_CONTAINERS = (dict, list, tuple)
_NO_BRACKETS_OR_QUOTES = bytes(set(range(256)) - set(b'{}[]"'))
_INTEGERS = range(-(2**63), 2**64)
# The shortest integer outside of _INTEGERS has 19 digits.
_LONG_NUMBER = b"0" * 19
#: Turns each digit into a zero, so that a search for _LONG_NUMBER finds any 19 digits. A regular
#: expression would be 20 times slower, on each message.
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")


def is_deeper(value: Any, data: bytes, levels: int) -> bool:
    """Whether a value is nested deeper than ``levels``.

    Args:
        data: the value as JSON.
    """
    return _may_be_deeper(data, levels) and _is_deeper(value, levels)


def has_long_integer(data: bytes) -> bool:
    """Whether JSON contains an integer of more than 64 bits."""
    if _LONG_NUMBER not in data.translate(_DIGITS_TO_ZERO):
        return False
    try:
        json.loads(data, parse_int=_check_integer)
    except ValueError:
        return True
    return False


def is_finite(value: Any) -> bool:
    """Whether every number in ``value`` is finite; a loop, since many messages contain null."""
    left = [value]
    while left:
        for child in _children(left.pop()):
            if type(child) is float:
                if not math.isfinite(child):
                    return False
            elif isinstance(child, _CONTAINERS):
                left.append(child)
    return True


def _check_integer(text: str) -> None:
    # The length first: int() refuses thousands of digits.
    if len(text) > 20 or int(text) not in _INTEGERS:
        raise ValueError


def _may_be_deeper(data: bytes, levels: int) -> bool:
    """Whether JSON may be nested deeper than ``levels``; False is certain.

    A fast check that spares nearly every message the recursion of :func:`_is_deeper`: first by the
    number of brackets, then by removing pairs of brackets, one or two levels at a time.

    Args:
        data: valid JSON.
    """
    if data.count(b"{") + data.count(b"[") <= levels:
        return False
    # Remove escaped backslashes before escaped quotes, to find the ends of strings.
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = unescaped.translate(None, _NO_BRACKETS_OR_QUOTES).split(b'"')[::2]
    brackets = b"".join(outside_strings)
    for _ in range(levels // 2):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return True


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether ``value`` is nested deeper than ``levels``."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for container in level
            for child in _children(container)
            if isinstance(child, _CONTAINERS)
        ]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
