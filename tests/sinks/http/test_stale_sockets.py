"""Detection of stale sockets of idle connections."""

from __future__ import annotations

import socket

from formrelay.sinks.http.curl import is_stale
from formrelay.sinks.http.transfers import KeptConnections


def test_a_socket_is_stale_if_its_peer_closed_it_or_sent_data() -> None:
    for say in (lambda other: other.close(), lambda other: other.send(b"HTTP/1.1 408 Late\r\n")):
        ours, other = socket.socketpair()
        with ours, other:
            assert not is_stale(ours.fileno())
            say(other)
            assert is_stale(ours.fileno())
        assert not is_stale(1_000_000)  # not a socket of this process


def test_a_socket_belongs_to_its_last_destination() -> None:
    kept = KeptConnections()
    ours, other = socket.socketpair()
    with ours:
        number = ours.fileno()
        kept.add("a", number)
        other.close()
        assert kept.has_stale("a", set())
        assert not kept.has_stale("a", {number})  # in use: the data is its response
        kept.add("b", number)
        assert not kept.has_stale("a", set())
        assert kept.has_stale("b", set())
    assert not kept.has_stale("b", set())  # closed by this process
