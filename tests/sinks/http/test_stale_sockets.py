"""Detection of stale sockets of idle connections."""

from __future__ import annotations

import os
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


def test_a_socket_that_moves_to_another_destination_leaves_the_first() -> None:
    kept = KeptConnections()
    (quiet, its_peer), (moved, other) = socket.socketpair(), socket.socketpair()
    with quiet, its_peer, moved:
        kept.add(None, quiet.fileno())  # as through a proxy
        kept.add(None, moved.fileno())
        kept.add("b", moved.fileno())
        other.close()
        assert not kept.has_stale(None, set())
        assert kept.has_stale("b", set())


def test_a_number_that_is_used_again_is_watched_again() -> None:
    kept = KeptConnections()
    (ours, peer), (new, other) = socket.socketpair(), socket.socketpair()
    with peer, new:
        number = ours.fileno()
        kept.add("a", number)
        ours.close()
        assert not kept.has_stale("a", set())
        os.dup2(new.fileno(), number)
        kept.add("a", number)
        assert not kept.has_stale("a", set())
        other.close()
        assert kept.has_stale("a", set())
        os.close(number)
