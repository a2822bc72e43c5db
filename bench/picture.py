"""Draws the comparisons of workers as people start them, as SVG."""

from __future__ import annotations

from html import escape
from typing import Any

_WIDTH, _ROW, _GAP, _TOP = 760, 26, 34, 16
_LABEL, _FIGURE = 250, 90
_OURS, _OTHERS, _SPREAD, _TEXT = "#2563eb", "#94a3b8", "#0f172a", "#1f2937"


def picture(comparisons: list[dict[str, Any]]) -> str:
    """Draw a bar for each contender's median, and a line from its lowest to its highest figure.

    Args:
        comparisons: as in bench/figures.json; all have the same unit.
    """
    parts: list[str] = []
    rows = [row for comparison in comparisons for row in comparison["rows"]]
    most = max((row["high"] or 0 for row in rows), default=0) or 1
    scale = (_WIDTH - _LABEL - _FIGURE) / most
    y = _TOP
    for comparison in comparisons:
        title = escape(comparison["title"].partition(",")[0])
        parts.append(f'<text x="8" y="{y + 14}" font-weight="600">{title}: jobs a second</text>')
        y += _ROW
        for row in comparison["rows"]:
            parts += _bar(row, y, scale)
            y += _ROW
        y += _GAP - _ROW + 8
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_TEXT}">'
    )
    about = "<title>Jobs a second of a started worker, by system</title>"
    background = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, about, background, *parts, "</svg>", ""])


def _bar(row: dict[str, Any], y: int, scale: float) -> list[str]:
    name, middle = row["contender"], row["median"] or 0
    color = _OURS if name.startswith("formrelay") else _OTHERS
    low, high = (_LABEL + (row[key] or 0) * scale for key in ("low", "high"))
    center = y + _ROW / 2
    return [
        f'<text x="{_LABEL - 8}" y="{center + 4}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{_LABEL}" y="{y + 4}" width="{middle * scale:.1f}" height="{_ROW - 8}" '
        f'fill="{color}"/>',
        f'<path d="M{low:.1f} {center}H{high:.1f}" stroke="{_SPREAD}" stroke-width="1.5"/>',
        f'<text x="{high + 8:.1f}" y="{center + 4}">{number(row["median"])}</text>',
    ]


def number(figure: float | None) -> str:
    """Format a figure for a table; None: the event never happened."""
    if figure is None:
        return "never"
    return f"{figure:,.1f}" if figure < 100 else f"{figure:,.0f}"
