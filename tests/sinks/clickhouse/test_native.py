"""The native protocol: connections that break, hang, are refused or inherited by a fork.

Not in the contract: HTTP uses urllib3's pool, and chdb has no connections.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta

import pytest

from formrelay.core.errors import SinkTransient, SinkUnavailable
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.sinks.wire import drip, raw, reset, serving, silence
from tests.support.servers import ClickHouseServer

SHORT = timedelta(milliseconds=500)


def test_each_thread_keeps_a_connection_of_its_own(clickhouse_url: str) -> None:
    client = open_clickhouse(clickhouse_url, "default")
    mine = "SELECT value FROM system.metrics WHERE metric = 'TCPConnection'"
    before = client.query(mine)
    for _ in range(5):
        client.ping()
    assert client.query(mine) == before
    other: list[object] = []
    thread = threading.Thread(target=lambda: other.extend(client.query(mine)))
    thread.start()
    thread.join(60)
    assert other[0][0] == before[0][0] + 1  # type: ignore[index]
    client.close()


def test_a_server_that_comes_back_is_used_again(clickhouse_server: ClickHouseServer) -> None:
    server = clickhouse_server
    client = open_clickhouse(server.url, "default", timeout=SHORT)
    client.ping()
    server.kill()
    with pytest.raises(SinkUnavailable):
        client.ping()
    with pytest.raises(SinkUnavailable):
        client.insert("t", ("a",), [[1]])
    server.start()
    client.ping()
    client.close()


def test_a_hanging_server_is_abandoned_in_time(clickhouse_server: ClickHouseServer) -> None:
    client = open_clickhouse(clickhouse_server.url, "default", timeout=SHORT, connect_timeout=SHORT)
    client.ping()
    clickhouse_server.pause()
    started = time.monotonic()
    with pytest.raises(SinkUnavailable):
        client.ping()
    assert time.monotonic() - started < 20
    clickhouse_server.resume()
    client.ping()
    client.close()


def test_a_slow_query_is_transient_and_the_next_query_works(
    clickhouse_url: str,
) -> None:
    client = open_clickhouse(clickhouse_url, "default", timeout=SHORT)
    with pytest.raises(SinkTransient, match="in time") as caught:
        client.query("SELECT sleep(2) SETTINGS interactive_delay = 10000000")
    assert type(caught.value) is SinkTransient
    client.ping()
    client.close()


@pytest.mark.parametrize(
    "answering", [silence, reset, raw(b"", keep=False), raw(b"HTTP/1.1 400 No\r\n\r\n"), drip(b"")]
)
def test_a_server_with_another_greeting_is_unavailable(answering: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # wire.py parses HTTP requests, but the native greeting is binary. So this server answers
        # once on each connection, without parsing.
        port = listener.getsockname()[1]
        stop = threading.Event()

        def accept() -> None:
            with serving() as wire:
                while not stop.is_set():
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    wire.stopping = stop
                    with connection:
                        try:
                            connection.recv(1)
                            answering(wire, connection)  # type: ignore[operator]
                        except OSError:
                            pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        client = open_clickhouse(
            f"clickhouse://127.0.0.1:{port}", "default", timeout=SHORT, connect_timeout=SHORT
        )
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            client.insert("t", ("a",), [["s3cr3t"]])
        assert time.monotonic() - started < 20
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://127.0.0.1:1",
        "clickhouse://no-such-host.invalid",
        "clickhouses://127.0.0.1:1",
    ],
)
def test_without_a_connection_the_sink_is_unavailable(url: str) -> None:
    with pytest.raises(SinkUnavailable):
        open_clickhouse(url, "default").ping()


def test_a_server_without_tls_is_unavailable_over_tls(clickhouse_url: str) -> None:
    url = clickhouse_url.replace("clickhouse://", "clickhouses://")
    with pytest.raises(SinkUnavailable):
        open_clickhouse(url, "default", timeout=SHORT, connect_timeout=SHORT).ping()


def test_a_forked_child_does_not_disturb_its_parents_connection(clickhouse_url: str) -> None:
    client = open_clickhouse(clickhouse_url, "default")
    client.command("CREATE TEMPORARY TABLE of_this_connection (a UInt8)")
    child = os.fork()
    if child == 0:
        try:
            ok = all(client.query("SELECT %(n)s", {"n": n}) == [(n,)] for n in range(20))
            client.close()
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    for n in range(20):
        assert client.query("SELECT %(n)s", {"n": -n}) == [(-n,)]
    assert os.waitpid(child, 0)[1] == 0
    assert client.query("SELECT count() FROM of_this_connection") == [(0,)]
    client.close()


def test_a_password_is_read_again_for_each_new_connection(
    clickhouse_server: ClickHouseServer,
) -> None:
    passwords = iter(["wr0ng", "relay-secret", "relay-secret"])
    client = open_clickhouse(
        clickhouse_server.url, "default", user="relay", password=lambda: next(passwords)
    )
    with pytest.raises(SinkTransient, match="CLICKHOUSE_PASSWORD") as caught:
        client.ping()
    assert caught.value.code == 193
    assert "wr0ng" not in str(caught.value)
    assert "'relay'" in str(caught.value)
    client.ping()
    client.ping()
    client.close()
