"""Jinja2 for the pages: strict, escaping everything, with our filters."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ...core.printable import printable, shown_id
from ..output import age


@cache
def environment() -> Environment:
    """The environment of the templates, made at the first page."""
    made = Environment(
        loader=PackageLoader("formrelay.ops.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        id=shown_id,
        age=_age,
        iso=_iso,
        moment=_moment,
        number=_number,
        block=_block,
        quoted=lambda text: shlex.quote(printable(text)),
        words=lambda text: str(text).replace("_", " "),
    )
    return made


def _printed(value: Any) -> Any:
    """Show hidden characters of a text as escapes; HTML of our templates stays as it is."""
    if value is None:
        return "–"
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _block(text: str) -> Markup:
    """A text of several lines."""
    return Markup(escape(printable(text, keep="\n")))  # noqa: S704 - escaped


def _age(seconds: float | None) -> str:
    return "–" if seconds is None else age(seconds)


def _iso(seconds: float) -> str:
    return _text_of(seconds, "%Y-%m-%dT%H:%M:%SZ")


def _moment(seconds: float) -> str:
    return _text_of(seconds, "%Y-%m-%d %H:%M:%S UTC")


def _text_of(seconds: float, layout: str) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(layout)
    except (ValueError, OverflowError, OSError):  # another program's number
        return "unknown"


def _number(value: float | None) -> str:
    """A number with separators; few digits after the point."""
    if value is None:
        return "n/a"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"
