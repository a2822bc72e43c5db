"""A1 notation as the stand-in reads it; written apart from the code under test."""

from __future__ import annotations

import re
from typing import NamedTuple


class Area(NamedTuple):
    """Cells: indexes from 0, ends exclusive; None for an open end."""

    top: int | None
    bottom: int | None
    left: int | None
    right: int | None


def split(text: str) -> tuple[str | None, str]:
    """The title of the tab (None without one) and the cells of a range."""
    if text.startswith("'"):
        end = 1
        while True:
            end = text.index("'", end)
            if text[end : end + 2] != "''":
                break
            end += 2
        return text[1:end].replace("''", "'"), text[end + 1 :].lstrip("!")
    if "!" in text:
        tab, cells = text.rsplit("!", 1)
        return tab, cells
    return (None, text) if area(text) else (text, "")


def area(cells: str) -> Area | None:
    """The area of ``A1:B2``; None for anything else."""
    if not cells:
        return Area(None, None, None, None)
    ends = cells.upper().replace("$", "").split(":")
    corners = [re.fullmatch(r"([A-Z]{0,3})(\d*)", end) for end in ends]
    if len(ends) > 2 or not all(corners) or not all(ends):
        return None
    pairs = [(number(one[1]), int(one[2]) - 1 if one[2] else None) for one in corners if one]
    if len(pairs) == 1:
        if None in pairs[0]:
            return None
        pairs *= 2
    (left, top), (right, bottom) = pairs
    return Area(
        top,
        None if bottom is None else bottom + 1,
        left,
        None if right is None else right + 1,
    )


def number(letters: str) -> int | None:
    """The index of a column."""
    if not letters:
        return None
    total = 0
    for letter in letters:
        total = total * 26 + ord(letter) - 64
    return total - 1
