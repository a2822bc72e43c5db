"""Reads all pages of an inspector."""

from __future__ import annotations

from formrelay.brokers import Entry, State
from tests.support.harness import Harness


def browse_all(harness: Harness, state: State, *, limit: int = 1000) -> list[Entry]:
    """Entries of all pages, in order."""
    found: list[Entry] = []
    cursor: str | None = None
    while True:
        page = harness.broker.inspector.browse(harness.queue, state, limit=limit, cursor=cursor)
        assert len(page.entries) <= limit
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return found


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]
