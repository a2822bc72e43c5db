"""Eight kinds of bad response, for each call that writes."""

from __future__ import annotations

import json
import os
import socket
import ssl
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import SinkError, SinkTransient, SinkUnavailable, SinkUnready
from formrelay.sinks.api import Api
from tests.sinks.wire import Answer, Wire, answer, flood, raw, serving
from tests.support.certificates import Authority

WHO = "ann@example.com"
TOKEN = "t0ken-of-ours"
SAVED = json.dumps({"id": "sub-1", "status": "completed", "webhooks": []}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PAGE = f"<html><p>{WHO}, sign in with {TOKEN}</p></html>".encode()

Call = Callable[[Api], Any]
CALLS: dict[str, Call] = {
    "save_submission": lambda api: api.save_submission(
        {"submissionId": "sub-1", "formId": "f", "answers": {"email": WHO}}
    ),
    "update_payment": lambda api: api.update_payment(
        "sub-1", status="completed", event_id="evt_1", created=1
    ),
    "save_partial": lambda api: api.save_partial("par-1", {"answers": {"email": WHO}}),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


def client(url: str, timeout: float = 2.0) -> Api:
    return Api(url, lambda: TOKEN, timedelta(seconds=1), timedelta(seconds=timeout))


def fails(api: Api, call: Call) -> SinkError:
    """Call the API and return the error, which contains neither the token nor a value."""
    with pytest.raises(SinkError) as caught:
        call(api)
    assert WHO not in repr(caught.value)
    assert TOKEN not in repr(caught.value)
    return caught.value


#: Name -> (answer, class of the error, text of the error).
ANSWERS: dict[str, tuple[Answer, type[SinkError], str]] = {
    "HTML": (
        answer(200, PAGE, kind="text/html; charset=utf-8"),
        SinkTransient,
        "expected JSON with 200 from the API, got text/html",
    ),
    "HTML that says it is JSON": (
        answer(200, PAGE),
        SinkTransient,
        f"expected JSON with 200 from the API, got {len(PAGE)} bytes of something else",
    ),
    "an odd content type": (
        answer(200, PAGE, kind=f"text/{WHO}"),
        SinkTransient,
        "expected JSON with 200 from the API, got another type",
    ),
    "half a JSON": (
        answer(201, SAVED[:20]),
        SinkTransient,
        "expected JSON with 201 from the API, got 20 bytes of something else",
    ),
    "204": (answer(204), SinkTransient, "expected 200 or 201 from the API, got 204"),
    "10 MB of an error": (
        flood(b"HTTP/1.1 500 No\r\nContent-Length: 10485760\r\n\r\n", 10 << 20),
        SinkTransient,
        "the API answered 500",
    ),
    "10 MB of an answer": (
        flood(OK + b"Content-Length: 10485760\r\n\r\n", 10 << 20),
        SinkTransient,
        "expected a response of at most 1048576 bytes with 200 from the API, got a larger one",
    ),
    "401": (
        answer(401, PAGE, "Retry-After: 60", kind="text/html"),
        SinkUnready,
        "expected the API to accept API_TOKEN, it answered 401: check the token",
    ),
    "shorter than its Content-Length": (
        raw(OK + b"Content-Length: 999\r\n\r\n" + SAVED, keep=False),
        SinkTransient,
        "the response of the API broke off",
    ),
    "longer than its Content-Length": (
        raw(OK + b"Content-Length: 20\r\n\r\n" + SAVED),
        SinkTransient,
        "expected JSON with 200 from the API, got 20 bytes of something else",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_bad_response_has_its_error_and_the_next_call_its_own_response(
    name: str, call: Call
) -> None:
    bad, kind, says = ANSWERS[name]
    with serving(bad, answer(200, SAVED)) as wire:
        api = client(wire.url)
        error = fails(api, call)
        assert type(error) is kind
        assert str(error).startswith(says)
        call(api)
        assert len(wire.requests) == 2
        assert wire.requests[0].split(b"\r\n")[0] == wire.requests[1].split(b"\r\n")[0]


def test_a_401_has_the_wait_that_the_api_asks_for(call: Call) -> None:
    with serving(ANSWERS["401"][0]) as wire:
        assert fails(client(wire.url), call).retry_after == timedelta(minutes=1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["http", "HTTP", "no URL", "//host", "/path"])
def test_a_redirect_is_never_followed(status: int, to: str, call: Call) -> None:
    with serving(answer(200, SAVED)) as elsewhere:
        target = f"127.0.0.1:{elsewhere.port}/{WHO}"
        location = {
            "http": f"http://{target}",
            "HTTP": f"HTTP://{target}",
            "no URL": f"http://[{WHO}",
            "//host": f"//{target}",
            "/path": f"/{WHO}",
        }[to]
        with serving(answer(status, b"", f"Location: {location}"), answer(200, SAVED)) as wire:
            error = fails(client(wire.url), call)
            # 303 means that the request was processed; the others mean that an operator has to act.
            assert type(error) is (SinkTransient if status == 303 else SinkUnready)
            shown = "" if to.startswith("/") else " to http"
            assert str(error) == (
                f"expected 200 or 201 from the API, got {status}, a redirect{shown}, "
                "which is never followed: check API_URL"
            )
            assert len(wire.requests) == 1
        assert elsewhere.accepted == 0


def test_little_of_a_large_error_response_is_kept(call: Call) -> None:
    page = b"HTTP/1.1 500 No\r\nContent-Length: 10485760\r\n\r\n" + PAGE.ljust(10 << 20)
    with serving(raw(page)) as wire:
        api = client(wire.url)
        fails(api, call)
        tracemalloc.start()
        for _ in range(5):
            fails(api, call)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 3 << 20  # of ten; the buffers of a connection hold about one


def test_unread_bytes_of_a_response_are_not_read_as_the_next_response(call: Call) -> None:
    """The answer is longer than its Content-Length, and its rest looks like another answer."""
    more = answer_bytes(b'{"id": "of another", "status": "completed"}')

    def late(wire: Wire, connection: socket.socket) -> bool:
        connection.sendall(OK + b"Content-Length: 20\r\n\r\n" + SAVED[:20])
        wire.stopping.wait(0.1)  # after the next request has taken the idle connection
        connection.sendall(more)
        return True

    with serving(late, answer(200, SAVED)) as wire:
        api = client(wire.url)
        fails(api, call)
        found = call(api)
        assert wire.accepted == 2
    assert getattr(found, "id", "sub-1") == "sub-1"


def answer_bytes(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


# -- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(authority.certificate))
    return authority


def test_an_expired_certificate_is_reported_and_nothing_is_sent(
    trusted: Authority, call: Call
) -> None:
    tls = trusted.server_side("expired", ends=-timedelta(days=1))
    with serving(answer(200, SAVED), tls=tls) as wire:
        error = fails(client(f"https://localhost:{wire.port}"), call)
        assert wire.requests == []
    assert type(error) is SinkUnready
    assert str(error) == (
        "expected the API's TLS certificate to be valid, it is not (certificate has expired): "
        "nothing was sent"
    )
    assert error.__suppress_context__  # no chain of the exceptions of four libraries in a log line


def test_without_a_common_tls_version_the_api_is_unavailable(
    trusted: Authority, call: Call
) -> None:
    tls = trusted.server_side("old")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("AES256-SHA")  # ciphers for another type of key than the certificate's
    with serving(answer(200, SAVED), tls=tls) as wire:
        error = fails(client(f"https://localhost:{wire.port}"), call)
        assert wire.requests == []
    assert type(error) is SinkUnavailable


def test_after_tls_breaks_in_a_response_the_outcome_is_unknown(
    trusted: Authority, call: Call
) -> None:
    def garbage(_wire: Wire, connection: socket.socket) -> bool:
        with socket.socket(fileno=os.dup(connection.fileno())) as plain:
            plain.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        return False

    with serving(garbage, tls=trusted.server_side("good")) as wire:
        error = fails(client(f"https://localhost:{wire.port}"), call)
        assert len(wire.requests) == 1
    assert type(error) is SinkTransient
