"""A stand-in for Google, and writers to its spreadsheet ``book``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from formrelay.sinks.sheets import Layouts, SheetsClient, SheetWriter
from formrelay.state.claims import MemoryClaims
from tests.support.google import Book, DirectTransport, Google


@pytest.fixture
def google() -> Any:
    google = Google()
    google.books["book"] = Book("Answers", "Other")
    yield google
    assert google.problems == []


@pytest.fixture
def book(google: Google) -> Book:
    return google.books["book"]


@pytest.fixture
def claims() -> MemoryClaims:
    return MemoryClaims()


@pytest.fixture
def make_writer(google: Google, claims: MemoryClaims) -> Callable[..., SheetWriter]:
    """Makes writers of different workers, which share only the store of claims."""

    def make(transport: Any = None) -> SheetWriter:
        token = google.tokens.new_access("ann")
        client = SheetsClient(lambda _: token, transport or DirectTransport(google))
        return SheetWriter(client, claims, Layouts())

    return make


@pytest.fixture
def writer(make_writer: Callable[..., SheetWriter]) -> SheetWriter:
    return make_writer()
