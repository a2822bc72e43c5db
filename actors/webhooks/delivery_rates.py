"""How many deliveries to each endpoint succeeded, from the delivery log."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta

from ..resources import clickhouse
from .delivery_log import TABLE

#: Number of statuses of an endpoint.
_STATUSES = 10


@dataclass(frozen=True, slots=True)
class DeliveryRate:
    """The deliveries to an endpoint in a time.

    Attributes:
        attempts: number of attempts.
        delivered: number of attempts that succeeded.
        statuses: HTTP statuses of the last attempts, the newest first; 0 without a response.
    """

    endpoint: str
    host: str
    attempts: int
    delivered: int
    statuses: tuple[int, ...]

    @property
    def percent(self) -> float:
        """Percentage of attempts that succeeded, rounded down: 100.0 means all."""
        return self.delivered * 1000 // max(1, self.attempts) / 10


def delivery_rates(since: timedelta, *, limit: int) -> list[DeliveryRate]:
    """Return the endpoints with the most failed attempts first.

    An attempt that was recorded twice may count twice until ClickHouse has merged its parts.

    Args:
        since: how far back.
        limit: maximum number of endpoints.

    Raises:
        ConfigError: CLICKHOUSE_URL is not set.
        SinkError: ClickHouse is unavailable, or the table does not exist.
    """
    when = {"seconds": int(since.total_seconds()), "limit": limit}
    rows = clickhouse().query(
        "SELECT endpoint, any(host), count() AS attempts, countIf(outcome = 'delivered') AS good "  # noqa: S608 - our own name
        f"FROM {TABLE} WHERE at > now() - %(seconds)s GROUP BY endpoint "
        "ORDER BY attempts - good DESC, attempts DESC, endpoint LIMIT %(limit)s",
        when,
    )
    statuses: defaultdict[str, list[int]] = defaultdict(list)
    last = clickhouse().query(
        f"SELECT endpoint, status FROM {TABLE} WHERE at > now() - %(seconds)s "  # noqa: S608
        f"ORDER BY at DESC LIMIT {_STATUSES} BY endpoint LIMIT %(limit)s",
        when | {"limit": limit * _STATUSES},
    )
    for endpoint, status in last:
        statuses[str(endpoint)].append(int(status))
    return [
        DeliveryRate(str(endpoint), str(host), int(all), int(good), tuple(statuses[str(endpoint)]))
        for endpoint, host, all, good in rows
    ]
