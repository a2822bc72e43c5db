"""Take out of a text what is not to be in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

_MARK = "[…]"
#: What is shorter says nothing, and stands in every text.
_SHORTEST = 4
#: A long value is looked for in pieces: of one that is cut off, the beginning is found as well.
_PIECE = 32


def redacted(text: str, values: Iterable[Any], *, most: int) -> str:
    """At most ``most`` characters of a text, without the texts and numbers in ``values``.

    A receiver that answers with what it was sent would else put a person's answers where
    nobody looks for them. What it has encoded (base64, say) is not found.

    Args:
        values: JSON of any depth.
    """
    # A value that the end cuts in two is found as long as its first piece is whole.
    text = text[: most + _PIECE]
    if len(text) >= _SHORTEST:
        for value in _texts(values):
            for piece in _pieces(value, text):
                text = text.replace(piece, _MARK)
        while 2 * _MARK in text:
            text = text.replace(2 * _MARK, _MARK)
    return text[:most]


def _texts(values: Iterable[Any]) -> Iterator[str]:
    rest = list(values)
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list | tuple):
            rest += value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield str(value)


def _pieces(value: str, text: str) -> Iterator[str]:
    """What of a value stands in a text: as it is, or as JSON writes it."""
    for spelling in {value, _as_json(value, is_ascii=True), _as_json(value, is_ascii=False)}:
        for start in range(0, len(spelling), _PIECE):
            piece = spelling[start : start + _PIECE]
            if len(piece) < _SHORTEST or piece not in text:
                if start == 0:
                    break  # its beginning is not in it
                continue
            yield piece


def _as_json(value: str, *, is_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=is_ascii)[1:-1]
