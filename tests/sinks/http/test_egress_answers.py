"""Responses that are too long, broken, late or missing; the meaning of a status."""

from __future__ import annotations

import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.core.errors import SinkError, SinkPermanent, SinkTransient, SinkUnavailable
from formrelay.sinks.http import Response, raise_for_status
from tests.sinks.http.test_egress import egress
from tests.sinks.wire import Answer, answer, drip, flood, raw, reset, serving, silence

OK = b"HTTP/1.1 200 OK\r\n"
SECRET_PATH = "/hook?token=s3cr3t"
SHORT = timedelta(milliseconds=500)
CUT = 64 * 1024
BIG_HEADERS = OK + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(200)) + b"\r\n"


def test_only_the_beginning_of_a_gigabyte_is_read() -> None:
    with serving(flood(OK + b"Content-Length: 1073741824\r\n\r\n", 1 << 30)) as wire:
        response = egress(timeout=timedelta(seconds=60)).send("POST", wire.url, {}, b"")
        assert (response.status, len(response.body)) == (200, CUT)
    assert wire.bytes_sent < 64 * 1024 * 1024


def test_a_body_of_exactly_the_limit_keeps_its_connection() -> None:
    with serving(answer(200, b"x" * CUT)) as wire:
        sender = egress()
        for _ in range(2):
            assert len(sender.send("POST", wire.url, {}, b"{}").body) == CUT
        assert wire.accepted == 1


def test_a_compressed_body_is_not_decompressed() -> None:
    with serving(answer(200, b"\x1f\x8bnot unpacked", "Content-Encoding: gzip")) as wire:
        assert egress().send("POST", wire.url, {}, b"").body == b"\x1f\x8bnot unpacked"


@pytest.mark.parametrize(
    "end",
    [
        drip(OK + b"Content-Length: 100\r\n\r\n"),
        raw(OK + b"Content-Length: 9\r\n\r\nx", keep=False),
    ],
)
def test_a_response_with_a_broken_body_is_returned(end: Answer) -> None:
    with serving(end) as wire:
        assert egress(timeout=SHORT).send("POST", wire.url, {}, b"").status == 200


FAILURES: list[tuple[str, Answer, type[SinkError], str]] = [
    ("never answers", silence, SinkTransient, "time-out"),
    ("drips headers", drip(OK, b"X: y\r\n"), SinkTransient, "time-out"),
    ("drips one header", drip(OK + b"X-Long: "), SinkTransient, "time-out"),
    ("resets", reset, SinkTransient, "lost"),
    ("closes", raw(b"", keep=False), SinkTransient, "lost"),
    ("closes in the headers", raw(OK + b"X: y\r\n", keep=False), SinkTransient, "lost"),
    ("speaks no HTTP", raw(b"220 smtp ready\r\n", keep=False), SinkTransient, "is not HTTP/1.1"),
    ("floods headers", raw(BIG_HEADERS, keep=False), SinkTransient, "headers"),
    ("only ever continues", drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), SinkTransient, "time-out"),
]


@pytest.mark.parametrize(
    ("answering", "error", "says"), [case[1:] for case in FAILURES], ids=[c[0] for c in FAILURES]
)
def test_a_broken_response_is_a_transient_error_in_time(
    answering: Answer, error: type[SinkError], says: str
) -> None:
    with serving(answering) as wire:
        started = time.monotonic()
        with pytest.raises(error, match=says) as caught:
            egress(timeout=SHORT).send("POST", wire.url + SECRET_PATH, {}, b"")
        assert time.monotonic() - started < 10
        assert type(caught.value) is error
        assert "s3cr3t" not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [("http://no-such-host.invalid/", "DNS"), ("http://127.0.0.1:1/", "refused")],
)
def test_a_failed_connection_raises_sink_unavailable(url: str, says: str) -> None:
    with pytest.raises(SinkUnavailable, match=says):
        egress(timeout=timedelta(seconds=3)).send("POST", url, {}, b"")


def test_an_untrusted_certificate_is_refused(tls: ssl.SSLContext) -> None:
    with serving(answer(200), tls=tls) as wire:
        with pytest.raises(SinkUnavailable, match="TLS"):
            egress().send("POST", f"https://localhost:{wire.port}/", {}, b"s3cr3t")
        assert wire.requests == []


def test_a_trusted_certificate_must_name_the_host(tls: ssl.SSLContext, certificate: Path) -> None:
    with serving(answer(200), tls=tls) as wire:
        sender = egress(ca_file=str(certificate), allow_http=False)
        assert sender.send("POST", f"https://localhost:{wire.port}/", {}, b"").status == 200
        with pytest.raises(SinkUnavailable, match="TLS"):
            sender.send("POST", f"https://127.0.0.1:{wire.port}/", {}, b"")


def test_tls_before_1_2_is_refused(certificate: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.load_cert_chain(certificate)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with serving(answer(200), tls=old) as wire, pytest.raises(SinkUnavailable, match="TLS"):
        egress(ca_file=str(certificate)).send("POST", f"https://localhost:{wire.port}/", {}, b"")


STATUSES: list[tuple[int, type[SinkError] | None]] = [
    *((status, None) for status in (200, 201, 202, 204, 299)),
    *((status, SinkPermanent) for status in (400, 410, 413, 414, 422, 501)),
    *((status, SinkTransient) for status in (300, 301, 302, 304, 307, 308)),
    *((status, SinkTransient) for status in (401, 403, 404, 405, 408, 409, 425, 429, 451, 499)),
    *((status, SinkTransient) for status in (500, 502, 503, 504, 520, 599, 600, 0, 100)),
]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_each_status_is_one_error(status: int, error: type[SinkError] | None) -> None:
    if error is None:
        raise_for_status(status, {}, 0.0)
        return
    with pytest.raises(error) as caught:
        raise_for_status(status, {"retry-after": "120"}, 0.0)
    assert caught.value.code == status
    asked = timedelta(seconds=120) if error is SinkTransient else None
    assert caught.value.retry_after == asked


def test_the_error_for_a_redirect_says_that_it_is_not_followed() -> None:
    with pytest.raises(SinkTransient, match="a redirect is never followed"):
        raise_for_status(302, {}, 0.0)


def test_the_repr_of_a_response_shows_no_body() -> None:
    assert "s3cr3t" not in repr(Response(200, {}, b"s3cr3t", timedelta(0)))
