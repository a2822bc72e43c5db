"""Take out of a text what is not to be in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_MARK = "[…]"
#: What is shorter says nothing, and stands in every text.
SHORTEST = 4
#: A long value is looked for in pieces: of one that is cut off, the beginning is found as well.
_PIECE = 32
#: What JSON writes as it is.
_PLAIN = re.compile(r"[ !#-\[\]-~]*\Z")


def redacted(text: str, values: Iterable[Any], *, most: int) -> str:
    """At most ``most`` characters of a text, without the texts and numbers in ``values``.

    A receiver that answers with what it was sent would else put a person's answers where
    nobody looks for them. What it has changed (upper case, HTML, base64) is not found, so the
    result may still hold parts of the values: no text of an answer is kept unless an operator
    asks for it.

    Args:
        values: JSON of any depth.
    """
    is_cut = len(text) > most + _PIECE
    text = text[: most + _PIECE]
    if len(text) < SHORTEST:
        return text
    spellings = {spelling for value in _texts(values) for spelling in _spellings(value)}
    # Whole ones first, the longest first: a short one would break a long one up.
    whole = sorted((one for one in spellings if len(one) >= SHORTEST), key=len, reverse=True)
    for spelling in whole:
        text = text.replace(spelling, _MARK)
    for spelling in whole:
        for piece in _pieces(spelling, text):
            text = text.replace(piece, _MARK)
    while 2 * _MARK in text:
        text = text.replace(2 * _MARK, _MARK)
    if is_cut:  # where the end cut a value in two, less than a piece of it is left
        text = text[:-_PIECE]
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


def _spellings(value: str) -> set[str]:
    """A value as it is, and as JSON writes it."""
    if _PLAIN.match(value):
        return {value}
    return {value, _as_json(value, is_ascii=True), _as_json(value, is_ascii=False)}


def _pieces(spelling: str, text: str) -> Iterator[str]:
    """What of a long value stands in a text, from its beginning to where it is cut off."""
    for start in range(0, len(spelling), _PIECE):
        piece = spelling[start : start + _PIECE]
        if len(piece) < SHORTEST or piece not in text:
            return
        yield piece


def _as_json(value: str, *, is_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=is_ascii)[1:-1]
