"""The client of the Django API against real servers."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from datetime import timedelta

import pytest

from formrelay.core.errors import (
    ConfigError,
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.sinks.api import Api, SavedSubmission, SubmissionWebhook
from tests.sinks.wire import Answer, Wire, answer, drip, flood, raw, reset, serving, silence
from tests.support.request_counts import counting

PAYLOAD = {"submissionId": "sub-1", "formId": "f", "answers": {"email": "ann@example.com"}}
ENDPOINT: dict[str, object] = {
    "id": 7,
    "url": "https://r.example/h",
    "secret": "whsec_x",
    "headers": {"X-A": "b"},
}
SAVED: dict[str, object] = {"id": "sub-1", "status": "completed", "webhooks": [ENDPOINT]}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def api(url: str, token: str | None = "t0ken", timeout: float = 0.4) -> Api:
    return Api(url, lambda: token, timedelta(seconds=0.3), timedelta(seconds=timeout))


def saved(body: object = SAVED, status: int = 201) -> Answer:
    return answer(status, json.dumps(body).encode())


@pytest.mark.parametrize("status", [200, 201])
def test_a_saved_submission_is_returned_with_its_endpoints(status: int) -> None:
    with serving(saved(status=status)) as wire:
        result = api(wire.url + "/").save_submission(PAYLOAD)
    endpoint = SubmissionWebhook("7", "https://r.example/h", "whsec_x", "POST", {"X-A": "b"})
    assert result == SavedSubmission("sub-1", "completed", (endpoint,))
    assert wire.headers()[0] == "POST /api/v1/submissions/ HTTP/1.1"
    assert {"Idempotency-Key: sub-1", "Authorization: Bearer t0ken"} <= set(wire.headers())
    assert json.loads(wire.body()) == PAYLOAD
    assert "whsec_x" not in repr(result)


def test_requests_are_counted_by_their_result() -> None:
    answers = [saved(), answer(422, b"{}"), answer(503, b"{}"), silence]
    with counting("api") as found, serving(*answers) as wire:
        client = api(wire.url)
        client.save_submission(PAYLOAD)
        for _ in range(3):
            with pytest.raises(SinkError):
                client.save_submission(PAYLOAD)
    assert found == {"ok": 1, "refused": 1, "busy": 1, "failed": 1}


def test_ids_are_quoted_in_urls() -> None:
    with serving(saved(SAVED | {"webhooks": None}, 200)) as wire:
        assert api(wire.url).get_submission("a/b?c").webhooks == ()
    assert wire.headers()[0] == "GET /api/v1/submissions/a%2Fb%3Fc/ HTTP/1.1"


def test_the_token_is_read_for_each_request() -> None:
    tokens = iter(["first", "second", None])
    with serving(saved()) as wire:
        client = Api(wire.url, lambda: next(tokens), timedelta(seconds=1), timedelta(seconds=1))
        for _ in range(3):
            client.save_submission(PAYLOAD)
    heads = [wire.requests[n].decode() for n in range(3)]
    assert "Bearer first" in heads[0]
    assert "Bearer second" in heads[1]
    assert "authorization" not in heads[2].lower()
    assert wire.accepted == 1


STATUSES: list[tuple[int, type[SinkError]]] = [
    *((status, SinkPermanent) for status in (400, 404, 409, 410, 413, 422)),
    *((status, SinkUnready) for status in (401, 403)),
    *((status, SinkBusy) for status in (425, 429, 503)),
    *((status, SinkTransient) for status in (405, 408, 451, 500, 502, 504, 599)),
    *((status, SinkTransient) for status in (202, 204, 303)),
    *((status, SinkUnready) for status in (301, 302, 307, 308)),
]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_each_status_is_one_error(status: int, error: type[SinkError]) -> None:
    with serving(answer(status, b"", "Location: /elsewhere")) as wire:
        with pytest.raises(error) as caught:
            api(wire.url).save_submission(PAYLOAD)
        assert type(caught.value) is error
        assert caught.value.code == status
        assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", timedelta(seconds=7)),
        ("-7", None),
        ("999999", timedelta(hours=24)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Fri, 06 Nov 2099 08:49:37 GMT", timedelta(hours=24)),
        ("whenever", None),
    ],
)
@pytest.mark.parametrize("status", [401, 429, 503])
def test_retry_after_is_passed_on(status: int, value: str, expected: timedelta | None) -> None:
    with serving(answer(status, b"", f"Retry-After: {value}")) as wire:
        with pytest.raises(SinkTransient) as caught:
            api(wire.url).save_submission(PAYLOAD)
        assert caught.value.retry_after == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"answers": ["'ann@example.com' is taken"], "formId": ["x"]}, "(fields: answers, formId)"),
        ({"errors": {"formId": ["ann@example.com"]}}, "(fields: formId)"),
        ({"answers.q1": "x", "answers[q2]": 1, "q3": 1}, "(fields: answers.q1, answers.q2, q3)"),
        ({"answers.ann": "x", "ann.q1": 1}, "(fields: answers)"),
        ({"ann@example.com": ["bad"]}, "answered 400"),
        ({"ann": ["bad"], "ANN": 1}, "answered 400"),
        (["ann@example.com"], "answered 400"),
        ({f"q{n}": "ann@example.com" for n in range(50)}, "q9)"),
    ],
)
def test_the_error_for_a_400_names_only_fields_that_were_sent(body: object, says: str) -> None:
    payload = {**PAYLOAD, "answers": {f"q{n}": "ann" for n in range(50)}}
    with serving(saved(body, 400)) as wire, pytest.raises(SinkPermanent) as caught:
        api(wire.url).save_submission(payload)
    assert str(caught.value).endswith(says)
    assert "ann" not in str(caught.value).lower()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_transient_and_says_what_to_check(status: int) -> None:
    with serving(answer(status)) as wire, pytest.raises(SinkTransient) as caught:
        api(wire.url).save_submission(PAYLOAD)
    assert "API_TOKEN" in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_a_malformed_endpoint_affects_neither_the_submission_nor_other_endpoints() -> None:
    malformed = [{"secret": "b"}, ENDPOINT | {"headers": [1]}, ENDPOINT | {"id": 0}, [], None]
    with serving(saved(SAVED | {"webhooks": [*malformed, ENDPOINT]})) as wire:
        found = api(wire.url).save_submission(PAYLOAD).webhooks
    assert [one.url for one in found] == ["", *[ENDPOINT["url"]] * 2, "", "", ENDPOINT["url"]]
    assert [one.headers for one in found[:3]] == [{}, {"": ""}, ENDPOINT["headers"]]
    assert found[2].id == "0"


ODD: list[tuple[str, Answer]] = [
    ("HTML", answer(200, b"<html>ann@example.com</html>", kind="text/html")),
    ("HTML that says JSON", answer(200, b"<html>ann@example.com</html>")),
    ("half a JSON", answer(201, b'{"id": "sub-1", "sta')),
    ("empty", raw(OK + b"Content-Length: 0\r\n\r\n")),
    ("a list", saved([1])),
    ("no id", saved({"status": "x", "webhooks": []})),
    ("id is an object", saved({"id": {}, "status": "x"})),
    ("webhooks is text", saved({"id": "a", "status": "x", "webhooks": "abc"})),
    ("webhooks is an object", saved({"id": "a", "status": "x", "webhooks": {"a": ENDPOINT}})),
    ("gzip", answer(200, b"\x1f\x8b", "Content-Encoding: gzip")),
    ("too large", answer(200, b'{"id": "' + b"x" * (1 << 20) + b'"}')),
    ("a gigabyte", flood(OK + b"Content-Length: 1073741824\r\n\r\n", 1 << 30)),
    ("shorter than said", raw(OK + b"Content-Length: 99\r\n\r\n{}", keep=False)),
    ("bad chunks", raw(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", keep=False)),
    ("no HTTP", raw(b"220 smtp ready\r\n", keep=False)),
    ("reset", reset),
    ("closed", raw(b"", keep=False)),
    ("never answers", silence),
    ("drips headers", drip(OK, b"X: y\r\n")),
    ("drips the status", drip(b"HTTP/1.1 2")),
    ("drips the body", drip(OK + b"Content-Length: 5000\r\n\r\n", b" ")),
    ("drips chunks", drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")),
    ("drips an error's body", drip(b"HTTP/1.1 400 No\r\nContent-Length: 5000\r\n\r\n", b" ")),
]


@pytest.mark.parametrize("answering", [case[1] for case in ODD], ids=[case[0] for case in ODD])
def test_an_unusual_response_is_transient_in_bounded_time(answering: Answer) -> None:
    with serving(answering) as wire:
        started = time.monotonic()
        with pytest.raises(SinkTransient) as caught:
            api(wire.url).save_submission(PAYLOAD)
        assert time.monotonic() - started < 10
        assert type(caught.value) is SinkTransient  # the submission may have been saved
        assert "ann" not in str(caught.value)
        assert wire.bytes_sent < 64 * 1024 * 1024
        assert len(wire.requests) == 1


def test_the_time_out_is_for_all_reads_together() -> None:
    def late(wire: Wire, connection: socket.socket) -> bool:
        wire.stopping.wait(3.6)
        connection.sendall(b"HTTP/1.1 ")
        return silence(wire, connection)

    with serving(late) as wire:
        started = time.monotonic()
        with pytest.raises(SinkTransient, match="in time"):
            api(wire.url, timeout=4.0).save_submission(PAYLOAD)
        assert time.monotonic() - started < 7.4  # with a time-out of each read: 7.6


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_without_a_connection_the_api_is_unavailable(url: str) -> None:
    with pytest.raises(SinkUnavailable):
        api(url).save_submission(PAYLOAD)


def test_an_untrusted_certificate_is_refused_before_the_token_is_sent(tls: ssl.SSLContext) -> None:
    with serving(saved(), tls=tls) as wire:
        with pytest.raises(SinkUnready, match=r"TLS.*self-signed"):
            api(f"https://localhost:{wire.port}").save_submission(PAYLOAD)
        assert wire.requests == []


def test_the_timeout_also_applies_to_tls(
    tls: ssl.SSLContext,
    certificate: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", os.fspath(certificate))
    monkeypatch.setattr("requests.utils.DEFAULT_CA_BUNDLE_PATH", os.fspath(certificate))
    with serving(saved(), drip(OK, b"X: y\r\n"), tls=tls) as wire:
        client = api(f"https://localhost:{wire.port}")
        assert client.save_submission(PAYLOAD).id == "sub-1"
        started = time.monotonic()
        with pytest.raises(SinkTransient, match="in time"):
            client.save_submission(PAYLOAD)
        assert time.monotonic() - started < 10
        assert wire.accepted == 1  # the second request used the connection of the first


def test_proxies_and_netrc_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(saved()) as wire, serving(saved()) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        api(wire.url).save_submission(PAYLOAD)
        assert (wire.accepted, proxy.accepted) == (1, 0)


def test_the_body_of_a_redirect_is_not_read() -> None:
    start = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 1073741824\r\n\r\n"
    with serving(flood(start, 1 << 30)) as wire, pytest.raises(SinkTransient, match="redirect"):
        api(wire.url, timeout=60).save_submission(PAYLOAD)
    assert wire.bytes_sent < 64 * 1024 * 1024
    assert len(wire.requests) == 1


def test_a_stale_connection_is_replaced() -> None:
    body = json.dumps(SAVED).encode()
    closing = raw(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body, keep=False)
    with serving(closing) as wire:
        client = api(wire.url)
        for _ in range(3):
            assert client.save_submission(PAYLOAD).id == "sub-1"
            assert wire.closed.acquire(timeout=30)
        assert wire.accepted == 3


@pytest.mark.parametrize("key", [None, "", "a b", "a\r\nb", "é", "x" * 256, 7, ".", ".."])
def test_a_key_that_fits_no_header_is_refused_before_sending(key: object) -> None:
    with serving(saved()) as wire:
        with pytest.raises(SinkPermanent, match="submissionId"):
            api(wire.url).save_submission(PAYLOAD | {"submissionId": key})
        assert wire.accepted == 0


def test_a_token_that_fits_no_header_is_transient_and_not_quoted() -> None:
    with serving(saved()) as wire, pytest.raises(SinkTransient) as caught:
        api(wire.url, token="s3cr\net").save_submission(PAYLOAD)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example",
        "ftp://api.example",
        "https://",
        "http://a/?b",
        "http://a b",
        "http://\ud800",
    ],
)
def test_a_malformed_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="API_URL"):
        api(url)


def test_a_url_that_is_not_ascii_is_converted() -> None:
    with serving(saved()) as wire:
        api(f"{wire.url}/é/").save_submission(PAYLOAD)
    assert wire.headers()[0] == "POST /%C3%A9/api/v1/submissions/ HTTP/1.1"
    with pytest.raises(SinkUnavailable):
        api("http://exämple.invalid").save_submission(PAYLOAD)


def test_its_host_is_converted_as_in_browsers() -> None:
    with pytest.raises(SinkUnavailable):
        api("http://faß.invalid").save_submission(PAYLOAD)
    assert api("http://faß.de:81/é")._url == "http://xn--fa-hia.de:81/%C3%A9"
    with pytest.raises(ConfigError, match="API_URL"):
        api("http://a\u200db.de")
