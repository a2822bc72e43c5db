"""The client over HTTP: tokens, connections, time-outs, calls that outlive their client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import ConfigError, NotNow, SinkTransient, SinkUnavailable
from formrelay.sinks.sheets import (
    HttpTransport,
    Layouts,
    SheetsClient,
    SheetWriter,
    TokenRefused,
)
from formrelay.state.claims import MemoryClaims
from tests.sinks.sheets.making import answers
from tests.support.google import Book, Fate, Google, serving
from tests.support.request_counts import counting


@pytest.fixture
def url(google: Google) -> Iterator[str]:
    with serving(google) as url:
        yield url


@pytest.fixture
def client(google: Google, url: str) -> SheetsClient:
    token = google.tokens.new_access("ann")
    return SheetsClient(lambda _: token, HttpTransport(), base_url=url + "/")


def test_rows_are_written_over_http(client: SheetsClient, book: Book) -> None:
    writer = SheetWriter(client, MemoryClaims(), Layouts())
    jobs = [answers(str(n), name=f"Ann {n}") for n in range(50)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda part: writer.write("book", jobs[part::4]), range(4)))
    assert [result.failures for result in results] == [{}] * 4
    assert len(book.tabs[0].cells) == 51


def test_a_refused_token_is_replaced_once(google: Google, url: str, book: Book) -> None:
    tokens = [google.tokens.new_access("ann")]
    refused: list[str | None] = []

    def token(old: str | None) -> str:
        refused.append(old)
        if old is not None:
            tokens.append(google.tokens.new_access("ann"))
        return tokens[-1]

    writer = SheetWriter(
        SheetsClient(token, HttpTransport(), base_url=url), MemoryClaims(), Layouts()
    )
    assert writer.write("book", [answers("1", name="Ann")]).failures == {}
    google.tokens.expire()
    with counting("sheets") as found:
        assert writer.write("book", [answers("2", name="Bob")]).failures == {}
    assert found.pop("ok") >= 1
    assert found == {"failed": 1}  # the token that was refused
    assert [old for old in refused if old] == [tokens[0]]
    google.tokens.revoke("ann")
    google.tokens.access.clear()
    before = google.calls.total()
    bad = SheetsClient(lambda _: "ya29.bad", HttpTransport(), base_url=url)
    (error,) = (
        SheetWriter(bad, MemoryClaims(), Layouts())
        .write("book", [answers("3", name="Cem")])
        .failures.values()
    )
    assert type(error) is TokenRefused
    assert google.calls.total() == before + 1  # no loop


def test_a_pause_of_the_connection_defers_without_a_call(google: Google, url: str) -> None:
    def token(_: str | None) -> str:
        raise NotNow("paused", after=timedelta(minutes=10))

    client = SheetsClient(token, HttpTransport(), base_url=url)
    writer = SheetWriter(client, MemoryClaims(), Layouts())
    (error,) = writer.write("book", [answers("1", name="Ann")]).failures.values()
    assert isinstance(error, NotNow)
    assert google.calls.total() == 0


def test_each_call_is_announced_with_its_quota(google: Google, url: str) -> None:
    kinds: list[str] = []
    token = google.tokens.new_access("ann")
    client = SheetsClient(lambda _: token, HttpTransport(), base_url=url, before_call=kinds.append)
    SheetWriter(client, MemoryClaims(), Layouts()).write("book", [answers("1", name="Ann")])
    assert kinds == ["read", "read", "write"]


def test_a_call_that_outlives_its_client_is_fenced(
    google: Google, url: str, book: Book, client: SheetsClient
) -> None:
    claims = MemoryClaims()
    assert (
        SheetWriter(client, claims, Layouts()).write("book", [answers("x", name="x")]).failures
        == {}
    )
    token = google.tokens.new_access("ann")
    hasty = SheetsClient(
        lambda _: token, HttpTransport(), base_url=url, timeout=timedelta(seconds=0.3)
    )
    fate = Fate("held")
    google.fates.append(fate)
    jobs = [answers(key, name=key) for key in ("a", "b")]
    layouts = Layouts()
    layouts.get(client, "book", "Answers", 0)
    (error, _) = SheetWriter(hasty, claims, layouts).write("book", jobs).failures.values()
    assert type(error) is SinkTransient
    assert "in time" in str(error)
    # Its successor runs while Google still works on it.
    assert SheetWriter(client, claims, Layouts()).write("book", jobs[1:]).failures == {}
    fate.released.set()
    assert SheetWriter(client, claims, Layouts()).write("book", jobs).failures == {}
    assert [row[0] for row in book.tabs[0].values()] == ["name", "x", "b", "a"]


def test_google_ends_a_call_after_its_cap(google: Google, client: SheetsClient, book: Book) -> None:
    google.cap = 0.05
    google.fates.append(Fate("held"))
    writer = SheetWriter(client, MemoryClaims(), Layouts())
    (error,) = writer.write("book", [answers("1", name="Ann")]).failures.values()
    assert type(error) is SinkTransient
    assert error.code == 503
    assert book.tabs[0].cells == []


def test_a_server_that_is_away_is_unavailable(google: Google) -> None:
    client = SheetsClient(lambda _: "t", HttpTransport(), base_url="http://127.0.0.1:9")
    writer = SheetWriter(client, MemoryClaims(), Layouts())
    (error,) = writer.write("book", [answers("1", name="Ann")]).failures.values()
    assert type(error) is SinkUnavailable


@pytest.mark.parametrize("url", ["ftp://x", "sheets.googleapis.com", "https://", "https://x?y=1"])
def test_a_malformed_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected the address of Google Sheets"):
        SheetsClient(lambda _: "t", HttpTransport(), base_url=url)


def test_an_id_cannot_change_the_path(google: Google, client: SheetsClient) -> None:
    writer = SheetWriter(client, MemoryClaims(), Layouts())
    for id in ("../../token", "book/values", "book?fields=x", "böök"):
        (error,) = writer.write(id, [answers("1", name="Ann")]).failures.values()
        assert getattr(error, "kind", "") == "not_found", error


def test_two_threads_have_connections_of_their_own(url: str, google: Google) -> None:
    transport: Any = HttpTransport()
    token = google.tokens.new_access("ann")
    client = SheetsClient(lambda _: token, transport, base_url=url)
    found: list[Any] = []

    def read() -> None:
        client.values("book", "Answers")
        found.append(transport._local.client)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is not found[1]
