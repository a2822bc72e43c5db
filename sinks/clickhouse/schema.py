"""What the tables are to be like, as the configuration has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

ATTEMPTS = "webhook_deliveries"


@dataclass(frozen=True, slots=True)
class Schema:
    """What :mod:`.migrate` brings a server to.

    Attributes:
        event_tables: the tables that take events, each with its view ``…_once`` and its roll-up
            ``…_daily``.
        keep_events: for so long rows of these tables are kept, in whole days (a part of one counts
            as one); None for ever. The roll-ups are kept for ever.
        keep_attempts: the same of ``webhook_deliveries``.
        cluster: the server's name for the hosts that all get the tables, as replicas; None for
            this host alone.
    """

    event_tables: tuple[str, ...] = ("events",)
    keep_events: timedelta | None = None
    keep_attempts: timedelta | None = None
    cluster: str | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that rows are inserted into."""
        return (*self.event_tables, ATTEMPTS)
