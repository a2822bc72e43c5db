"""The blocking client: kept, broken, forked and interrupted connections; limits of a response."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pycurl
import pytest

from formrelay.core.errors import SinkTransient
from formrelay.sinks.api import Api
from formrelay.sinks.http.blocking import (
    MAX_BYTES,
    BlockingClient,
    BlockingResponse,
    RequestFailed,
)
from tests.sinks.wire import Wire, answer, raw, serving, silence
from tests.support.waiting import wait_until

SAVED = b'{"id": "sub-1", "status": "completed", "webhooks": []}'
HEADERS = {"Accept": "application/json"}
PAYLOAD = {"submissionId": "sub-1", "formId": "f", "answers": {}}


def api(url: str) -> Api:
    return Api(url, lambda: "t0ken", timedelta(seconds=1), timedelta(seconds=5))


def ask(client: BlockingClient, url: str, body: bytes | None = b"{}") -> BlockingResponse:
    return client.request("POST" if body else "GET", url, HEADERS, body, (1.0, 5.0))


WRITES: dict[str, Callable[[Api], Any]] = {
    "POST": lambda client: client.save_submission(PAYLOAD),
    "PATCH": lambda client: client.update_payment(
        "sub-1", status="completed", event_id="evt_1", created=1
    ),
    "PUT": lambda client: client.save_partial("par-1", {"answers": {}}),
}


@pytest.mark.parametrize("method", WRITES)
def test_a_request_is_not_sent_twice_if_a_kept_connection_breaks(method: str) -> None:
    with serving(answer(200, SAVED), raw(b"", keep=False), answer(200, SAVED)) as wire:
        client = api(wire.url)
        client.save_submission(PAYLOAD)
        with pytest.raises(SinkTransient) as caught:
            WRITES[method](client)
        assert type(caught.value) is SinkTransient  # the next attempt looks it up first
        assert len(wire.requests) == 2
        assert wire.headers()[0].startswith(method)
        assert wire.accepted == 1


def test_a_closed_connection_is_found_before_a_request_is_sent() -> None:
    hangs_up = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", keep=False)
    with serving(hangs_up) as wire, closing(BlockingClient()) as client:
        for _ in range(5):
            assert ask(client, wire.url).status == 200
            assert wire.closed.acquire(timeout=30)
        assert len(wire.requests) == wire.accepted == 5


def test_all_methods_reuse_a_connection() -> None:
    with serving(answer(200, SAVED)) as wire, closing(BlockingClient()) as client:
        for body in (b"{}", None, b"{}", None):
            assert ask(client, wire.url, body).body == SAVED
        first = [wire.headers(n)[0].split()[0] for n in range(4)]
        assert first == ["POST", "GET", "POST", "GET"]
        assert [wire.body(n) for n in range(4)] == [b"{}", b"", b"{}", b""]
        assert wire.accepted == 1


def test_a_response_has_its_headers_its_type_and_its_body() -> None:
    with (
        serving(answer(200, SAVED, "X-One: a", "x-two:  b ")) as wire,
        closing(BlockingClient()) as client,
    ):
        found = ask(client, wire.url)
    assert (found.headers["x-one"], found.headers["x-two"]) == ("a", "b")
    assert (found.media_type, found.body, found.is_whole) == ("application/json", SAVED, True)


def test_the_headers_are_those_of_the_final_response() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nX-One: a\r\n\r\n"
    last = b"HTTP/1.1 200 OK\r\nX-Two: b\r\nContent-Length: 2\r\n\r\n{}"
    with serving(raw(interim + last)) as wire, closing(BlockingClient()) as client:
        found = ask(client, wire.url)
    assert found.status == 200
    assert dict(found.headers) == {"x-two": "b", "content-length": "2"}


@pytest.mark.parametrize("status", [b"404", b"503"])
def test_headers_cut_off_after_an_interim_response_are_an_error(status: bytes) -> None:
    head = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 %s Not\r\nContent-Le" % status
    with (
        serving(raw(head, keep=False)) as wire,
        closing(BlockingClient()) as client,
        pytest.raises(RequestFailed) as caught,
    ):
        ask(client, wire.url)
    assert (caught.value.was_sent, caught.value.has_status) == (True, False)


def test_a_trailer_is_no_header() -> None:
    start = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        serving(raw(start + b"0\r\nRetry-After: 77\r\n\r\n")) as wire,
        closing(BlockingClient()) as client,
    ):
        assert dict(ask(client, wire.url).headers) == {"transfer-encoding": "chunked"}


@pytest.mark.parametrize("status", [b"HTTP/1.1 500 No\r\n", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_at_most_one_megabyte_of_a_body_is_read(status: bytes, is_chunked: bool) -> None:
    body = b"x" * (4 << 20)
    page = status + b"Content-Length: %d\r\n\r\n" % len(body) + body
    served = raw(chunked(status, body) if is_chunked else page, keep=False)
    with serving(served) as wire, closing(BlockingClient()) as client:
        ask(client, wire.url)
        gc.freeze()  # leaves out what the other tests made, with which a collection takes 0.3 s
        before = resident()
        for _ in range(5):
            found = ask(client, wire.url)
            assert not found.is_whole
            assert len(found.body) <= MAX_BYTES
            gc.collect()  # an error and its frames reference each other
        gc.unfreeze()
        assert resident() - before < 8 << 20


def chunked(start: bytes, body: bytes) -> bytes:
    """A response with a chunked body, without Content-Length."""
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_sent_if_the_connection_is_refused() -> None:
    with closing(BlockingClient()) as client, pytest.raises(RequestFailed) as caught:
        ask(client, "http://127.0.0.1:1")
    assert caught.value.code == pycurl.E_COULDNT_CONNECT
    assert not caught.value.was_sent


def test_a_forked_child_does_not_use_its_parents_connection(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it send a TLS close message on it."""
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate))
    with serving(answer(200, SAVED), tls=tls) as wire:
        client = api(f"https://localhost:{wire.port}")
        client.save_submission(PAYLOAD)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                client.save_submission(PAYLOAD)
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert wire.accepted == 2
        client.save_submission(PAYLOAD)
        assert wire.accepted == 2


def test_the_end_of_a_forked_child_does_not_close_its_parents_connections(
    tls: ssl.SSLContext, certificate: Path
) -> None:
    environment = {**os.environ, "SSL_CERT_FILE": os.fspath(certificate)}
    with serving(answer(200, SAVED), tls=tls) as wire:
        url = f"https://localhost:{wire.port}"
        program = str(Path(__file__).with_name("forking_client.py"))
        subprocess.run([sys.executable, program, url], env=environment, check=True)
        assert (wire.accepted, len(wire.requests)) == (2, 4)


class _Stop(BaseException):
    """Stands for the exception with which a stopping worker interrupts its threads."""


def test_an_exception_for_the_thread_is_raised_after_the_request() -> None:
    """Not within libcurl, which would swallow it."""
    heard: list[BaseException] = []

    def slowly(wire: Wire, connection: socket.socket) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-One: a\r\n")
        wire.stopping.wait(0.5)
        connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(SAVED), SAVED))
        return True

    def work() -> None:
        try:
            with closing(BlockingClient()) as client:
                ask(client, wire.url)
        except BaseException as error:
            heard.append(error)

    with serving(slowly) as wire:
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: len(wire.requests) == 1)
        told = ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stop)
        )
        assert told == 1
        thread.join(60)
    assert [type(one) for one in heard] == [_Stop]


def test_a_request_has_one_time_out() -> None:
    with serving(silence) as wire, closing(BlockingClient()) as client:
        with pytest.raises(RequestFailed) as caught:
            client.request("GET", wire.url, HEADERS, None, (0.2, 0.2))
        assert caught.value.code == pycurl.E_OPERATION_TIMEDOUT
        assert caught.value.was_sent
        assert len(wire.requests) == 1
