"""Requests of the egress to real servers."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from formrelay.core.errors import (
    InvalidJob,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
)
from formrelay.sinks.http import Egress, Response
from tests.sinks.wire import answer, raw, serving
from tests.support.loop import run
from tests.support.threads import at_once

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Sender:
    """An egress whose ``send`` waits for the response."""

    def __init__(self, egress: Egress) -> None:
        self.egress = egress

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        return run(self.egress.send(method, url, headers, body))


def egress(**changes: Any) -> Sender:
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=10),
        "allow_http": True,
        "allowed_private": LOOPBACK,
    }
    return Sender(Egress(**(options | changes)))


def test_a_request_arrives_unchanged() -> None:
    with serving(answer(200, b'{"ok":1}', "X-One: a", "x-one: b")) as wire:
        response = egress().send("PUT", wire.url + "/a?b=c", {"webhook-id": "m1", "x-e": ""}, b"{}")
    assert response.status == 200
    assert response.body == b'{"ok":1}'
    assert response.headers["x-one"] == "a, b"
    assert timedelta(0) < response.duration < timedelta(seconds=30)
    lines = wire.headers()
    assert lines[0] == "PUT /a?b=c HTTP/1.1"
    assert {"webhook-id: m1", "x-e:", "content-type: application/json"} <= set(lines)
    assert wire.body() == b"{}"
    names = {line.partition(":")[0].lower() for line in lines[1:]}
    assert not names & {"expect", "accept-encoding", "cookie"}


@pytest.mark.parametrize("size", [0, 1, 2_000_000])
def test_a_body_of_any_size_is_sent_without_waiting_for_100_continue(size: int) -> None:
    with serving(answer(204)) as wire:
        assert egress().send("POST", wire.url, {}, b"x" * size).status == 204
    assert len(wire.body()) == size
    assert not [line for line in wire.headers() if line.lower().startswith("expect")]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.1",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:10.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "127.0.0.1.",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "ⓛocalhost",
        "168.63.129.16",
        "2822734096",
        "0xa83f8110",
        "0250.077.0201.020",
        "168.4161808",
        "[::ffff:168.63.129.16]",
        "[2002:a83f:8110::]",
        "[64:ff9b::168.63.129.16]",
    ],
)
def test_every_spelling_of_a_blocked_address_is_refused_without_connecting(host: str) -> None:
    with serving(answer(200)) as wire:
        with pytest.raises(SinkPermanent, match="resolves to a blocked address") as caught:
            egress(allowed_private=()).send(
                "POST", f"http://{host}:{wire.port}/x?k=s3cr3t", {}, b""
            )
        assert wire.accepted == 0
    assert "s3cr3t" not in str(caught.value)


def test_a_name_is_connected_to_at_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["10.0.0.1", "127.0.0.1"])
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (next(answers), 0))])
    with serving(answer(200)) as wire:
        sender = egress(allowed_private=[ip_network("127.0.0.0/8")])
        for _ in range(2):  # the second look-up would return an allowed address
            with pytest.raises(SinkPermanent, match="blocked"):
                sender.send("POST", f"http://rebinding.test:{wire.port}/", {}, b"")
        assert wire.accepted == 0


def test_an_exception_allows_its_own_network_only() -> None:
    with serving(answer(200)) as wire:
        only_ten = egress(allowed_private=[ip_network("10.0.0.0/8")])
        with pytest.raises(SinkPermanent):
            only_ten.send("POST", wire.url, {}, b"")
        assert egress().send("POST", wire.url, {}, b"").status == 200


@pytest.mark.parametrize(
    ("url", "headers", "method"),
    [
        ("http://u:p@127.0.0.1/", {}, "POST"),
        ("ftp://127.0.0.1/", {}, "POST"),
        ("http://127.0.0.1/", {"a": "b\r\nc: d"}, "POST"),
        ("http://127.0.0.1/", {"a b": "c"}, "POST"),
        ("http://127.0.0.1/", {}, "DELETE"),
    ],
)
def test_an_invalid_request_is_refused_before_it_is_sent(
    url: str, headers: dict[str, str], method: str
) -> None:
    with pytest.raises(InvalidJob):
        egress().send(method, url, headers, b"")


def test_plain_http_is_refused_unless_allowed() -> None:
    with pytest.raises(InvalidJob, match="https"):
        egress(allow_http=False).send("POST", "http://127.0.0.1/", {}, b"")


def test_a_redirect_is_returned_and_not_followed() -> None:
    with serving(answer(200)) as other:
        with serving(answer(302, b"", f"Location: {other.url}/")) as wire:
            response = egress().send("POST", wire.url, {}, b"")
        assert (response.status, other.accepted) == (302, 0)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answer(200)) as wire, serving(answer(200)) as proxy:
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        egress().send("POST", wire.url, {}, b"")
        assert (wire.accepted, proxy.accepted) == (1, 0)


def test_a_configured_proxy_connects_to_the_host() -> None:
    with serving(answer(200, b"from afar")) as proxy:
        sender = egress(proxy=proxy.url, allowed_private=())
        response = sender.send("POST", "http://example.test/hook?a=1", {"webhook-id": "m1"}, b"{}")
        assert response.body == b"from afar"
        assert proxy.headers()[0] == "POST http://example.test/hook?a=1 HTTP/1.1"
        for host in (
            "10.0.0.1",
            "168.63.129.16",
            "0xa83f8110",
            "0x7f000001",
            "2130706433",
            "127.0.0.1.",
            "[::ffff:10.0.0.1]",
        ):
            with pytest.raises(SinkPermanent, match="blocked"):
                sender.send("POST", f"http://{host}/", {}, b"")
        assert len(proxy.requests) == 1


def test_no_proxy_of_the_environment_does_not_bypass_a_configured_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    sender = egress(proxy="http://127.0.0.1:1", allowed_private=())
    with serving(answer(200)) as here, pytest.raises(SinkUnavailable):
        sender.send("POST", f"http://localhost:{here.port}/", {}, b"")
    assert here.accepted == 0


def test_a_refusal_of_the_proxy_is_no_response() -> None:
    with serving(answer(403)) as proxy:
        with pytest.raises(SinkUnavailable, match="proxy: status 403"):
            egress(proxy=proxy.url).send("POST", "https://example.test/", {"x-key": "s3cr3t"}, b"")
        assert proxy.headers()[0] == "CONNECT example.test:443 HTTP/1.1"
        assert "s3cr3t" not in "\n".join(proxy.headers())


def test_a_proxys_connect_response_is_no_response() -> None:
    connected = raw(b"HTTP/1.1 200 Connection established\r\n\r\n", keep=False)
    with serving(connected) as proxy, pytest.raises(SinkTransient):
        egress(proxy=proxy.url).send("POST", "https://example.test/", {}, b"")


def test_cookies_are_not_sent_back() -> None:
    with serving(answer(200, b"", "Set-Cookie: a=b")) as wire:
        sender = egress()
        for _ in range(2):
            sender.send("POST", wire.url, {}, b"")
    assert not [line for line in wire.headers() if line.lower().startswith("cookie")]


def test_one_connection_serves_many_requests() -> None:
    with serving(answer(200, b"ok")) as wire:
        sender = egress()
        for number in range(5):
            assert sender.send("POST", wire.url, {"x-n": str(number)}, b"b").body == b"ok"
        assert (wire.accepted, len(wire.requests)) == (1, 5)


def test_a_request_contains_nothing_of_an_earlier_request() -> None:
    with serving(answer(200, b"long body", "X-A: 1"), answer(200)) as wire:
        sender = egress()
        sender.send("PUT", wire.url, {"authorization": "Bearer s3cr3t"}, b"first")
        second = sender.send("POST", wire.url, {}, b"")
    assert (second.body, "x-a" in second.headers) == (b"", False)
    assert "s3cr3t" not in wire.requests[1].decode("latin-1")


def test_threads_share_a_few_connections() -> None:
    with serving(answer(200)) as wire:
        sender = egress()
        statuses: list[int] = []

        def work(_number: int) -> None:
            statuses.extend(sender.send("POST", wire.url, {}, b"{}").status for _ in range(5))

        at_once(work, range(4))
        assert statuses == [200] * 20
        assert 1 <= wire.accepted <= 4


def test_a_forked_child_does_not_use_its_parents_connection() -> None:
    with serving(answer(200)) as wire:
        sender = egress()
        sender.send("POST", wire.url, {}, b"{}")
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if sender.send("POST", wire.url, {}, b"{}").status == 200 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        sender.send("POST", wire.url, {}, b"{}")
        assert wire.accepted == 2  # one connection of the parent, and one of the child


@pytest.mark.parametrize("host", ["faß.de", "FAẞ.DE", "xn--fa-hia.de", "faß．de."])
def test_a_host_is_converted_to_ascii_everywhere(
    host: str, monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext
) -> None:
    """In the look-up, in TLS, in the Host header, and in the key of a kept connection."""
    asked: set[str] = set()

    def getaddrinfo(name: str, *_: object, **__: object) -> list[object]:
        asked.add(name)
        return [(2, 1, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    with serving(answer(200)) as wire:
        sender = egress()
        for spelled in (host, "fass.de", "xn--fa-hia.de"):
            sender.send("POST", f"http://{spelled}:{wire.port}/", {}, b"{}")
        assert f"Host: xn--fa-hia.de:{wire.port}" in wire.headers(0)
        assert f"Host: fass.de:{wire.port}" in wire.headers(1)  # a different domain
        assert wire.accepted == 2
        assert asked == {"xn--fa-hia.de", "fass.de"}
    named: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: named.append(name)
    with serving(answer(200), tls=tls) as wire, pytest.raises(SinkUnavailable, match="TLS"):
        egress().send("POST", f"https://{host}:{wire.port}/", {}, b"{}")
    assert named == ["xn--fa-hia.de"]
