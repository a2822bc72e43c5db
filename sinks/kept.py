"""Connections that are kept between requests, and how libcurl is kept from repeating one.

Where a kept connection breaks before an answer, libcurl sends the same request again on a new
connection, although the receiver may have acted on the first. It cannot repeat a body that it
reads from a function and is unable to rewind. So every body is given by a function, and a
connection that the receiver has closed meanwhile is recognised before anything is sent on it:
libcurl itself looks for closed connections once a second at most.
"""

from __future__ import annotations

import select
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable
from io import BytesIO
from typing import Any

import pycurl


def set_body(curl: Any, body: bytes) -> None:
    """Give a request its body, which libcurl can send once."""
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.POSTFIELDSIZE, len(body))
    curl.setopt(pycurl.READFUNCTION, BytesIO(body).read)


def is_stale(sockets: Iterable[int]) -> bool:
    """Whether one of some idle sockets was closed by its other side.

    A socket that has received data nobody asked for counts as closed: the data would be taken for
    the next answer. A socket that this process has closed does not count.
    """
    poll = select.poll()
    for socket in sockets:
        poll.register(socket, select.POLLIN)
    return any(event & ~select.POLLNVAL for _, event in poll.poll(0))


class KeptConnections:
    """The sockets of the connections that libcurl may use again, by destination.

    libcurl does not say when it closes a socket, so a few that are listed may be closed, or lead
    elsewhere by now. They cost a new connection at worst.
    """

    def __init__(self) -> None:
        self._destinations: dict[int, Hashable] = {}
        self._sockets: defaultdict[Hashable, set[int]] = defaultdict(set)

    def add(self, destination: Hashable, socket: int) -> None:
        """A request to ``destination`` went over ``socket``."""
        known = self._destinations.get(socket)
        if known == destination:
            return
        if known is not None:
            self._sockets[known].discard(socket)
            if not self._sockets[known]:
                del self._sockets[known]
        self._destinations[socket] = destination
        self._sockets[destination].add(socket)

    def has_stale(self, destination: Hashable, in_use: Collection[int]) -> bool:
        """Whether a connection to ``destination`` has been closed by the receiver.

        Args:
            in_use: sockets of the requests under way.
        """
        sockets = self._sockets.get(destination)
        return bool(sockets) and is_stale([one for one in sockets or () if one not in in_use])
