"""Makes the text part of an e-mail from its HTML."""

from __future__ import annotations

import re
import textwrap

from inscriptis.css_profiles import STRICT_CSS_PROFILE
from inscriptis.html_engine import Inscriptis
from inscriptis.html_properties import Display
from inscriptis.model.config import ParserConfig
from inscriptis.model.html_document_state import HtmlDocumentState
from inscriptis.model.html_element import HtmlElement as TextStyle
from inscriptis.model.tag import CustomHtmlTagHandlerMapping
from lxml.etree import ParserError
from lxml.html import HtmlElement, document_fromstring

#: Maximum number of characters of a line, unless a single word is longer.
WIDTH = 72

#: The element that stands for a cell of a layout table.
_LAYOUT_CELL = "layout-cell"
#: All columns of a table's row but the last. (Outside of tables, HTML collapses spaces.)
_COLUMNS = re.compile(r".*\S  +(?=\S)")


def to_plain_text(html: str) -> str:
    """Convert HTML to text with lines of at most 72 characters.

    Each cell of a table with ``role="presentation"`` becomes a paragraph. Links become
    ``label <url>``.
    """
    try:
        tree = document_fromstring(html)
    except ParserError:  # only white space or comments
        return "\n"
    _remove_layout_tables(tree)
    return tidy("\n".join(map(_wrap, Inscriptis(tree, _CONFIG).get_text().splitlines())))


def tidy(text: str) -> str:
    """Remove spaces at the ends of lines, and reduce several empty lines to one."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _remove_layout_tables(tree: HtmlElement) -> None:
    layout = [table for table in tree.iter("table") if table.get("role") == "presentation"]
    for row_or_cell in [*tree.iter("tr", "td", "th")]:
        if next(row_or_cell.iterancestors("table"), None) in layout:
            row_or_cell.tag = _LAYOUT_CELL
    for table in layout:
        table.tag = _LAYOUT_CELL


def _wrap(line: str) -> str:
    """Break a long line; the row of a table continues in its last column."""
    if len(line) <= WIDTH:
        return line
    columns = _COLUMNS.match(line)
    indent = min(len(columns[0]), WIDTH // 2) if columns else 0
    return textwrap.fill(
        line,
        WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _start_link(state: HtmlDocumentState, attributes: dict[str, str]) -> None:
    state.link_target = attributes.get("href", "")


def _end_link(state: HtmlDocumentState) -> None:
    if state.link_target:
        state.tags[-1].write(f" <{state.link_target}>")


_CONFIG = ParserConfig(
    css={
        **STRICT_CSS_PROFILE,
        _LAYOUT_CELL: TextStyle(display=Display.block, margin_before=1),
    },
    custom_html_tag_handler_mapping=CustomHtmlTagHandlerMapping(
        {"a": _start_link}, {"a": _end_link}
    ),
)
