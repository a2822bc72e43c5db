"""Receivers that speak only HTTP/2: a connection for each request, and nothing sent twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pycurl
import pytest

from formrelay.core.errors import SinkTransient, SinkUnavailable
from formrelay.sinks.api import Api
from formrelay.sinks.http import Response
from tests.sinks.http.h2_server import node_server
from tests.sinks.http.test_egress import Sender, egress
from tests.sinks.wire import answer, serving
from tests.support.certificates import Authority
from tests.support.loop import run
from tests.support.servers import in_ci
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not pycurl.version_info()[4] & pycurl.VERSION_HTTP2 and not in_ci(),
    reason="libcurl without HTTP/2",
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("h2"))
    authority.issue("server")
    return authority


@pytest.fixture
def url(authority: Authority) -> Iterator[str]:
    with node_server(authority, "h2") as port:
        yield f"https://localhost:{port}"


def sender(authority: Authority, **changes: Any) -> Sender:
    options = {"timeout": timedelta(seconds=10), "ca_file": str(authority.certificate)}
    return egress(**(options | changes))


def told(response: Response) -> dict[str, Any]:
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = json.loads(response.body)
    return found


def test_a_receiver_that_speaks_only_http_2_gets_the_request_unchanged(
    authority: Authority, url: str
) -> None:
    headers = {"webhook-id": "m1", "X-Empty": ""}
    found = told(sender(authority).send("PUT", f"{url}/a?b=c", headers, b'{"a":1}'))
    assert (found["version"], found["path"], found["body"]) == ("2.0", "/a?b=c", '{"a":1}')
    assert found["headers"][":method"] == "PUT"
    assert found["headers"]["webhook-id"] == "m1"
    assert found["headers"]["content-type"] == "application/json"
    assert found["headers"]["x-empty"] == ""
    assert found["requests"] == 1


def test_each_request_has_a_connection_and_the_refusal_is_remembered(
    authority: Authority, url: str
) -> None:
    sending = sender(authority)
    for number in range(1, 4):
        found = told(sending.send("POST", url, {}, b"{}"))
        assert (found["requests"], found["sessions"]) == (number, number)
    assert len(sending.egress._http2) == 1

    async def many() -> list[Response]:
        return await asyncio.gather(
            *(sending.egress.send("POST", url, {}, b"x" * 100_000) for _ in range(10))
        )

    found = told(max(run(many()), key=lambda response: told(response)["requests"]))
    assert (found["requests"], found["sessions"]) == (13, 13)


@pytest.mark.parametrize("size", [0, 2, 300_000])
@pytest.mark.parametrize("path", ["/goaway", "/hang"])
def test_a_request_is_not_sent_twice_if_the_connection_breaks_or_hangs(
    authority: Authority, url: str, path: str, size: int
) -> None:
    sending = sender(authority, timeout=timedelta(seconds=2))
    assert told(sending.send("POST", url, {}, b"{}"))["requests"] == 1
    started = time.monotonic()
    with pytest.raises(SinkTransient) as caught:
        sending.send("POST", url + path, {}, b"x" * size)
    assert type(caught.value) is SinkTransient  # the receiver may have acted on the request
    assert time.monotonic() - started < 10
    # The broken connection is closed, and not used again.
    found = told(sending.send("POST", url, {}, b"{}"))
    assert (found["requests"], found["sessions"]) == (3, 3)
    wait_until(lambda: told(sending.send("POST", url, {}, b"{}"))["open"] == 1)


def test_a_cancelled_request_closes_its_connection(authority: Authority, url: str) -> None:
    sending = sender(authority)

    async def cancel() -> Response:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await sending.egress.send("POST", f"{url}/hang", {}, b"{}")
        return await sending.egress.send("POST", url, {}, b"{}")

    assert told(run(cancel()))["sessions"] == 2
    wait_until(lambda: told(sending.send("POST", url, {}, b"{}"))["open"] == 1)


def test_a_receiver_that_speaks_both_gets_http_1_1_on_a_kept_connection(
    authority: Authority,
) -> None:
    tls = authority.server_side("both")
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with serving(answer(200, b"{}"), tls=tls) as wire:
        sending = sender(authority)
        for _ in range(3):
            sending.send("POST", f"https://localhost:{wire.port}/", {}, b"{}")
        assert wire.headers()[0] == "POST / HTTP/1.1"
        assert (len(wire.requests), wire.accepted) == (3, 1)


def test_without_http_2_in_libcurl_the_error_says_that_the_receiver_speaks_only_http_2(
    authority: Authority, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.sinks.http.egress._HAS_HTTP2", False)
    with pytest.raises(SinkUnavailable, match="speaks only HTTP/2, which this libcurl does not"):
        sender(authority).send("POST", url, {}, b"{}")


def test_the_api_must_speak_http_1_1_and_the_error_says_so(
    authority: Authority, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "formrelay.sinks.http.curl.system_ca_file", lambda: str(authority.certificate)
    )
    wait = timedelta(seconds=5)
    with pytest.raises(SinkUnavailable, match=r"it speaks only HTTP/2: allow HTTP/1\.1"):
        Api(url, lambda: None, wait, wait).get_submission("s")


def test_the_answer_of_an_http_2_server_without_tls_is_told_from_a_broken_one(
    authority: Authority,
) -> None:
    said = r"is not HTTP/1\.1: it may speak only HTTP/2"
    with node_server(authority, "h2c") as port, pytest.raises(SinkTransient, match=said):
        sender(authority).send("POST", f"http://127.0.0.1:{port}/", {}, b"{}")
