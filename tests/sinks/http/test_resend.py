"""libcurl sends no request twice, even if a kept connection breaks."""

from __future__ import annotations

import select
import socket
import ssl
from pathlib import Path

import pytest

from formrelay.core.errors import SinkTransient
from tests.sinks.http.test_egress import egress
from tests.sinks.wire import Answer, Wire, answer, raw, reset, serving


def tunnel(wire: Wire, connection: socket.socket) -> bool:
    """Answer CONNECT, and pass bytes on until one side closes its connection."""
    port = int(wire.requests[-1].split()[1].rpartition(b":")[2])
    with socket.create_connection(("127.0.0.1", port)) as target:
        connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        other = {connection: target, target: connection}
        while True:
            for side in select.select([*other], [], [], 60)[0]:
                data = side.recv(65_536)
                if not data:
                    return False
                other[side].sendall(data)


OK = answer(200, b"{}")
CLOSING = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", keep=False)


@pytest.mark.parametrize("size", [0, 2, 300_000])
@pytest.mark.parametrize("breaks", [raw(b"", keep=False), reset], ids=["closes", "resets"])
def test_a_request_is_not_sent_twice_if_a_kept_connection_breaks(breaks: Answer, size: int) -> None:
    with serving(OK, breaks, OK) as wire:
        sender = egress()
        assert sender.send("POST", wire.url, {}, b"{}").status == 200
        with pytest.raises(SinkTransient, match="lost") as caught:
            sender.send("POST", wire.url, {}, b"x" * size)
        assert type(caught.value) is SinkTransient  # the receiver may have acted on the request
        assert len(wire.requests) == 2


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_a_closed_connection_is_found_before_a_request_is_sent(
    is_tls: bool, tls: ssl.SSLContext, certificate: Path
) -> None:
    with serving(CLOSING, tls=tls if is_tls else None) as wire:
        sender = egress(ca_file=str(certificate))
        scheme = "https" if is_tls else "http"
        for _ in range(5):
            url = f"{scheme}://localhost:{wire.port}/"
            assert sender.send("POST", url, {}, b"{}").status == 200
            assert wire.closed.acquire(timeout=30)
        assert len(wire.requests) == wire.accepted == 5


def test_a_connection_that_the_proxy_has_closed_is_found_before_a_request_is_sent() -> None:
    with serving(CLOSING) as proxy:
        sender = egress(proxy=proxy.url)
        for _ in range(5):
            assert sender.send("POST", "http://example.test/", {}, b"{}").status == 200
            assert proxy.closed.acquire(timeout=30)
        assert len(proxy.requests) == proxy.accepted == 5


def test_a_closed_tunnel_of_a_proxy_concerns_its_own_host_only(
    tls: ssl.SSLContext, certificate: Path
) -> None:
    with (
        serving(CLOSING, tls=tls) as first,
        serving(OK, tls=tls) as second,
        serving(tunnel) as proxy,
    ):
        sender = egress(proxy=proxy.url, ca_file=str(certificate))
        for wire in (second, first):
            assert sender.send("POST", f"https://localhost:{wire.port}/", {}, b"{}").status == 200
        assert first.closed.acquire(timeout=30)
        assert proxy.closed.acquire(timeout=30)
        for wire in (second, first):
            assert sender.send("POST", f"https://localhost:{wire.port}/", {}, b"{}").status == 200
        assert (first.accepted, second.accepted) == (2, 1)


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
def test_open_connections_are_kept(is_tls: bool, tls: ssl.SSLContext, certificate: Path) -> None:
    with serving(OK, tls=tls if is_tls else None) as wire:
        sender = egress(ca_file=str(certificate))
        scheme = "https" if is_tls else "http"
        for _ in range(5):
            sender.send("POST", f"{scheme}://localhost:{wire.port}/", {}, b"{}")
        assert len(wire.requests) == 5
        assert wire.accepted == 1
