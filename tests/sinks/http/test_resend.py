"""libcurl sends no request a second time by itself, whatever becomes of a kept connection."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from formrelay.core.errors import SinkTransient
from tests.sinks.http.test_egress import egress
from tests.sinks.wire import Answer, answer, raw, reset, serving

OK = answer(200, b"{}")
CLOSING = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", keep=False)


@pytest.mark.parametrize("size", [0, 2, 300_000])
@pytest.mark.parametrize("breaks", [raw(b"", keep=False), reset], ids=["closes", "resets"])
def test_a_request_that_was_read_on_a_kept_connection_is_not_sent_again(
    breaks: Answer, size: int
) -> None:
    with serving(OK, breaks, OK) as wire:
        sender = egress()
        assert sender.send("POST", wire.url, {}, b"{}").status == 200
        with pytest.raises(SinkTransient, match="lost") as caught:
            sender.send("POST", wire.url, {}, b"x" * size)
        assert type(caught.value) is SinkTransient  # nobody knows whether it was taken
        assert len(wire.requests) == 2


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_connections_that_the_receiver_closed_are_found_before_anything_is_sent(
    is_tls: bool, tls: ssl.SSLContext, certificate: Path
) -> None:
    with serving(CLOSING, tls=tls if is_tls else None) as wire:
        sender = egress(ca_file=str(certificate))
        scheme = "https" if is_tls else "http"
        for _ in range(5):
            url = f"{scheme}://localhost:{wire.port}/"
            assert sender.send("POST", url, {}, b"{}").status == 200
            assert wire.closed.acquire(timeout=5)
        assert len(wire.requests) == wire.accepted == 5


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_connections_are_kept_otherwise(
    is_tls: bool, tls: ssl.SSLContext, certificate: Path
) -> None:
    with serving(OK, tls=tls if is_tls else None) as wire:
        sender = egress(ca_file=str(certificate))
        scheme = "https" if is_tls else "http"
        for _ in range(5):
            sender.send("POST", f"{scheme}://localhost:{wire.port}/", {}, b"{}")
        assert len(wire.requests) == 5
        assert wire.accepted == 1
