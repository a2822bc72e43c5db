"""Product, version and clock of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says about itself.

    Attributes:
        product: ``Redis``, ``Valkey`` or ``RabbitMQ``, or another name.
        version: as the server writes it.
        clock_ahead: how many seconds its clock is ahead of this machine's; None if it does not
            tell its time.
        clock_error: maximum error of ``clock_ahead``, in seconds.
    """

    product: str
    version: str
    clock_ahead: float | None = None
    clock_error: float = 0.0


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (6, 2, 7) of ``6.2.7-rc1``; () without any."""
    found = _NUMBERS.match(version)
    return tuple(map(int, found[0].split("."))) if found else ()
