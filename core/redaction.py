"""Removes payload values from a text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

#: Stands for a value that was removed.
MARK = "[…]"
#: Shorter values are not removed: they say nothing and occur in every text.
SHORTEST = 4
#: A long value is searched in pieces of this length, so that a value cut off is found too.
_PIECE = 32
#: Characters that JSON does not escape.
_PLAIN = re.compile(r"[ !#-\[\]-~]*\Z")


def redacted(text: str, values: Iterable[Any], *, most: int) -> str:
    """Replace the strings and numbers of ``values`` in a text, and cut the text.

    For responses: a receiver may echo a person's answers. Values that it changed (upper case,
    HTML, base64) are not found, so the result may still contain parts of them. Hence responses
    are kept only where an operator asks for it.

    Args:
        values: JSON of any depth.
        most: maximum length of the result, in characters.
    """
    is_cut = len(text) > most + _PIECE
    text = text[: most + _PIECE]
    if len(text) < SHORTEST:
        return text
    spellings = {spelling for value in _texts(values) for spelling in _spellings(value)}
    # Longest first: replacing a short value first would break up a long value that contains it.
    whole = sorted((text for text in spellings if len(text) >= SHORTEST), key=len, reverse=True)
    for spelling in whole:
        text = text.replace(spelling, MARK)
    for spelling in whole:
        for piece in _pieces(spelling, text):
            text = text.replace(piece, MARK)
    while 2 * MARK in text:
        text = text.replace(2 * MARK, MARK)
    if is_cut:  # the last characters may be part of a value, too short to be found
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
    """The value itself and its JSON spellings."""
    if _PLAIN.match(value):
        return {value}
    return {value, _as_json(value, is_ascii=True), _as_json(value, is_ascii=False)}


def _pieces(spelling: str, text: str) -> Iterator[str]:
    """The pieces of a long value that occur in a text, up to the first that does not."""
    for start in range(0, len(spelling), _PIECE):
        piece = spelling[start : start + _PIECE]
        if len(piece) < SHORTEST or piece not in text:
            return
        yield piece


def _as_json(value: str, *, is_ascii: bool) -> str:
    return json.dumps(value, ensure_ascii=is_ascii)[1:-1]
