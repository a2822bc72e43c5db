"""Payloads as operators see them: masked, or revealed without OAuth tokens."""

from __future__ import annotations

import json
from typing import Any

import orjson

#: Stands for a value.
MASK = "•••"
#: Stands for a token, which opens all spreadsheets of its owner.
HIDDEN_TOKEN = "[…]"  # noqa: S105 - not a token
#: Parts of a message that contain values of its sender; the last two are bytes that cannot be
#: decoded.
_WITH_VALUES = frozenset({"args", "kwargs", "traceback", "raw", "raw_text"})
_TOKENS = frozenset({"access_token", "refresh_token"})


def masked(value: Any) -> Any:
    """Copy JSON with a mask for every text and number; names, lists and null stay.

    A mask names the type of the value, and the length of a text: ``••• 12 characters``.
    """
    match value:
        case dict():
            return {name: masked(each) for name, each in value.items()}
        case list() | tuple():
            return [*map(masked, value)]
        case None:
            return None
        case str():
            return f"{MASK} {len(value):,} character{'' if len(value) == 1 else 's'}"
        case bool():
            return f"{MASK} true or false"
        case int() | float():
            return f"{MASK} number"
    return MASK


def masked_message(message: Any) -> Any:
    """Copy a message as JSON; mask its arguments, and the arguments of messages in its options.

    Masks also the traceback that Dramatiq's own retries keep, since an error may quote values, and
    bytes that cannot be decoded.
    """
    if isinstance(message, dict):
        return {
            name: masked(each) if name in _WITH_VALUES else masked_message(each)
            for name, each in message.items()
        }
    if isinstance(message, list | tuple):
        return [*map(masked_message, message)]
    return message


def without_tokens(value: Any) -> Any:
    """Copy JSON without OAuth tokens."""
    if isinstance(value, dict):
        return {
            name: HIDDEN_TOKEN if _is_token(name, each) else without_tokens(each)
            for name, each in value.items()
        }
    return [*map(without_tokens, value)] if isinstance(value, list | tuple) else value


def with_tokens(edited: Any, original: Any) -> Any:
    """Put the tokens that :func:`without_tokens` has hidden back into a copy that was edited."""
    if isinstance(edited, dict) and isinstance(original, dict):
        return {
            name: original[name]
            if each == HIDDEN_TOKEN and _is_token(name, original.get(name))
            else with_tokens(each, original.get(name))
            for name, each in edited.items()
        }
    if isinstance(edited, list) and isinstance(original, list | tuple):
        rest = [*original, *[None] * (len(edited) - len(original))]
        return [with_tokens(*pair) for pair in zip(edited, rest, strict=False)]
    return edited


def json_text(value: Any) -> str:
    """Write JSON for people."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _is_token(name: str, value: Any) -> bool:
    return name in _TOKENS and isinstance(value, str)
