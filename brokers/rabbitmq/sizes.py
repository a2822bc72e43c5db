"""How many messages fit into the memory that a queue may take: RabbitMQ counts, and no bytes."""

from __future__ import annotations

#: Bytes that what was fetched and is not settled may have, about.
MOST_BYTES = 32 * 1024 * 1024
#: As many are fetched while nothing is known of their size.
_FIRST = 200
#: The mean is of so many, the last ones more than those before.
_OF = 32


class Sizes:
    """The size of a queue's messages of late."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = 0.0
        self._most = _FIRST

    def saw(self, size: int) -> None:
        """A message of so many bytes has come."""
        self._count += 1
        self._mean += (size - self._mean) / min(self._count, _OF)

    @property
    def most(self) -> int:
        """How many may be fetched at a time.

        It does not follow each change, for to fetch more or fewer takes a consumer anew.
        """
        if self._count >= _OF:
            fit = int(MOST_BYTES / max(1.0, self._mean)) or 1
            if not self._most / 2 < fit < self._most * 4:
                self._most = fit
        return self._most
