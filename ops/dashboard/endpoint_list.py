"""Lists webhook endpoints, from the endpoint registry, the delivery log and the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from ...actors.webhooks.delivery_rates import DeliveryRate, delivery_rates
from ...actors.webhooks.registry import EndpointRecord
from ...actors.webhooks.resources import make_registry
from ...brokers import DeadFilter, RelayBroker
from ...brokers.inspection import Extent
from ...config import get_settings
from ...core.errors import ConfigError, SinkError
from ..endpoints import endpoint_json, endpoint_of_entry, find_urls, shown_url
from .cached import Cached

#: Period of the success rates, and maximum number of endpoints with a rate.
RATE_PERIOD, _MAX_RATES = timedelta(hours=24), 200
#: Seconds for which the answer of ClickHouse is cached, also if it is an error.
_CACHE_SECONDS = 60.0
#: Maximum number of dead letters to look at for an endpoint, and to return.
_SEARCHED, _MAX_FOUND = 20_000, 1_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook endpoint.

    Attributes:
        host: host of its URL; empty if it is known from jobs alone.
        where: host and path of its URL, or the host alone.
        state: ``disabled``, ``open`` (circuit breaker), ``failing`` or ``fine``.
        record: its record in the registry; None for an endpoint that works.
        rate: its success rate in the delivery log; None if it is not known.
        has_job: whether a waiting or dead-lettered job has its whole URL.
    """

    id: str
    host: str
    where: str
    state: str
    record: EndpointRecord | None = None
    rate: DeliveryRate | None = None
    has_job: bool = False


class Rates(NamedTuple):
    """Success rates from the delivery log.

    Attributes:
        rates: one for each endpoint.
        why_missing: why there are none; None if the delivery log was read.
    """

    rates: list[DeliveryRate]
    why_missing: str | None = None


def cached_rates() -> Cached[Rates]:
    """Make the cache of the success rates: reading them costs ClickHouse a scan."""
    return Cached(lambda _broker: _read_rates(), _CACHE_SECONDS)


def _read_rates() -> Rates:
    try:
        return Rates(_rates())
    except (ConfigError, SinkError) as error:
        return Rates([], str(error))


def _rates() -> list[DeliveryRate]:
    settings = get_settings()
    if settings.clickhouse.url is None:
        raise ConfigError("CLICKHOUSE_URL is not set")
    if settings.broker.kind == "embedded":  # its files belong to the worker
        raise ConfigError("the embedded ClickHouse belongs to the worker")
    return delivery_rates(RATE_PERIOD, limit=_MAX_RATES)


def webhook_queue() -> str:
    """The name of the queue of webhooks."""
    try:
        return get_settings().webhooks.queue
    except ConfigError:  # a broker that is made in code needs no settings
        return "webhooks"


def list_endpoints(broker: RelayBroker, rates: list[DeliveryRate], now: float) -> list[Endpoint]:
    """Return the endpoints: disabled, with an open breaker, failing, then the others."""
    records = {} if broker.state is None else _records(broker)
    urls = find_urls(broker.inspector, webhook_queue())
    by_id = {rate.endpoint: rate for rate in rates}
    found = []
    for id in {**records, **by_id, **urls}:
        record, rate, url = records.get(id), by_id.get(id), urls.get(id)
        state = "fine" if record is None else endpoint_json(record.to_json(), now)["state"]
        host = next((each.host for each in (record, rate) if each and each.host), "")
        where = shown_url(url) if url is not None else host
        found.append(Endpoint(id, host, where, state, record, rate, url is not None))
    order = ("disabled", "open", "failing", "fine")
    return sorted(found, key=lambda each: (order.index(each.state), each.where, each.id))


def _records(broker: RelayBroker) -> dict[str, EndpointRecord]:
    return {record.id: record for record in make_registry(broker.state).all()}


def dead_of_endpoint(broker: RelayBroker, id: str) -> tuple[list[str], bool]:
    """Return the ids of the dead letters of an endpoint, and whether there are no more."""
    queue, extent = webhook_queue(), Extent(at_most=_SEARCHED)
    letters = broker.inspector.dead_letters(DeadFilter(queue), limit=None, extent=extent)
    matching = (
        each.id for each in letters if (known := endpoint_of_entry(each)) and known[0] == id
    )
    found = list(islice(matching, _MAX_FOUND + 1))
    return found[:_MAX_FOUND], len(found) <= _MAX_FOUND and extent.is_complete
