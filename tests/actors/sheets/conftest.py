"""Fixtures: a stand-in for Google over HTTP, and the worker that writes to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from tests.actors.conftest import Site
from tests.support.google import Book, Google, serving


def make_key() -> SecretStr:
    """A new STATE_KEY."""
    return SecretStr(Fernet.generate_key().decode())


class Sheets:
    """Writes rows through a worker.

    Attributes:
        google: the stand-in; ``ann`` and ``bob`` may edit the spreadsheet ``book``.
        refresh_token: of ann's consent.
        key: STATE_KEY.
    """

    def __init__(self, site: Site, google: Google, url: str) -> None:
        self.site, self.google, self.url = site, google, url
        self.refresh_token = google.tokens.consent("ann")
        self.key = make_key()

    def use(self, **changes: Any) -> None:
        """Change the settings of the worker."""
        base = {
            "api_url": self.url,
            "token_url": f"{self.url}/token",
            "oauth_client_id": "client",
            "oauth_client_secret": SecretStr("secret"),
            "project_limit_per_minute": 100_000,
            "user_limit_per_minute": 100_000,
        }
        self.site.use(sheets=base | changes, broker={"state_key": self.key})

    def payload(self, **changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"spreadsheetId": "book", "range": "Answers"}
        if "values" not in changes:
            found["answers"] = {"Name": "Ann"}
        if "connectionId" not in changes:
            found["auth"] = {"refresh_token": self.refresh_token}
        return found | changes

    def send(self, **changes: Any) -> Any:
        metadata = changes.pop("metadata", None)
        return self.site.actors.update_sheet.send(self.payload(**changes), metadata)

    def work_off(self) -> None:
        self.site.work_off("sheets")

    def outcome(self, **changes: Any) -> list[Any]:
        """Send a job, work the queue off, and return the dead letters."""
        self.send(**changes)
        self.work_off()
        return self.site.dead("sheets")

    def names(self, book: str = "book") -> list[str]:
        """The first column of the first tab, without its header."""
        rows = self.google.books[book].tabs[0].values()
        return [row[0] for row in rows[1:]]

    @property
    def writes(self) -> int:
        return self.google.calls["spreadsheets.batchUpdate"]

    def soon(self) -> int:
        """A time in an hour, as Google's libraries write it."""
        return int((time.time() + 3600) * 1000)


def make_due(sheets: Sheets) -> None:
    """Make all scheduled messages of the queue due now."""
    broker = sheets.site.broker
    key = broker.keys.scheduled("sheets")  # type: ignore[attr-defined]
    for id, _ in broker.client.zrange(key, 0, -1, withscores=True):  # type: ignore[attr-defined]
        broker.client.zadd(key, {id: 1})  # type: ignore[attr-defined]


@pytest.fixture
def google() -> Iterator[Google]:
    google = Google()
    google.books["book"] = Book("Answers", "Other", editors={"ann", "bob"})
    yield google
    assert google.problems == []


@pytest.fixture
def sheets(site: Site, google: Google) -> Iterator[Sheets]:
    """The worker, which writes to the stand-in."""
    with serving(google) as url:
        found = Sheets(site, google, url)
        found.use()
        yield found
        site.stop()
