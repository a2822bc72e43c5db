"""``formrelay doctor``: is everything there, and which promises are weaker here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import typer

from ..actors.webhooks.registry import MemoryRegistry
from ..actors.webhooks.resources import make_registry
from ..brokers import get_broker
from ..config import get_settings
from ..core.errors import FormrelayError
from .boot import NOT_FINE, declare_actors, is_embedded_clickhouse
from .output import JsonOption, print_json, print_table


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        state: 'ok', 'weak' (it works, and a promise is weaker) or 'bad'.
    """

    what: str
    state: Literal["ok", "weak", "bad"]
    says: str


def doctor(json: JsonOption = False) -> None:
    """Look at the broker and the sinks; exit status 1 if one is not fine."""
    declare_actors()
    found = [finding for look in _LOOKS for finding in _careful(look)]
    if json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(finding.what, finding.state, finding.says) for finding in found]
        print_table("Doctor", ["what", "state", "says"], rows, empty="")
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(NOT_FINE)


def _careful(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a look finds; what it stumbles over is a finding too."""
    try:
        yield from look()
    except FormrelayError as error:
        yield Finding(look.__name__.strip("_"), "bad", str(error))


def _broker() -> Iterator[Finding]:
    broker = get_broker()
    broker.ping()
    tried = broker.try_access()
    says = f"{get_settings().broker.kind} answers; jobs can be sent, fetched and settled"
    yield Finding("broker", "ok", says)
    for weakness in (*tried, *broker.weaknesses()):
        yield Finding("broker", "weak", weakness)


def _old_keys() -> Iterator[Finding]:
    if importlib.util.find_spec("redis") is None:
        return
    from .old_keys import left_over

    if found := ", ".join(left_over()):
        says = f"Redis holds keys of an older version, which this namespace does not use: {found}"
        todo = "if they are this environment's, run formrelay migrate --old-keys"
        yield Finding("old keys", "weak", f"{says}; {todo}")


def _clickhouse() -> Iterator[Finding]:
    from ..actors.resources import clickhouse, clickhouse_schema
    from ..sinks.clickhouse import migrate

    url = get_settings().clickhouse.secret("url")
    if url is None:
        yield Finding("clickhouse", "weak", "CLICKHOUSE_URL is not set: no events can be worked on")
        return
    client = clickhouse()
    client.ping()
    version = ".".join(map(str, client.version()))
    yield Finding("clickhouse", "ok", f"version {version} answers")
    missing = [migration.name for migration in migrate.plan(client, clickhouse_schema())]
    if missing and not is_embedded_clickhouse(url):
        yield Finding(
            "clickhouse", "bad", f"not migrated ({', '.join(missing)}): formrelay migrate"
        )
    for note in migrate.notes(client, clickhouse_schema()):
        yield Finding("clickhouse", "weak", note)
    if not client.supports_dedup_token:
        says = "no deduplication token in this version: count events with events_once"
        yield Finding("clickhouse", "weak", says)


def _api() -> Iterator[Finding]:
    from ..actors.resources import api

    section = get_settings().api
    if section.url is None:
        yield Finding("api", "weak", "API_URL is not set: no submissions can be worked on")
        return
    api()
    if section.secret("token") is None:
        yield Finding("api", "weak", "API_TOKEN is not set: requests go out without one")
    else:
        yield Finding("api", "ok", f"{section.url} is configured (not called)")


def _endpoints() -> Iterator[Finding]:
    registry = make_registry(get_broker().state)
    if isinstance(registry, MemoryRegistry):
        says = "each process remembers endpoints and idempotency keys for itself: set STATE_URL"
        yield Finding("endpoints", "weak", f"{says} to a Redis")
        return
    count = len(registry.disabled())
    yield Finding("endpoints", "ok", f"{count} are disabled" if count else "none is disabled")


_LOOKS = (_broker, _old_keys, _clickhouse, _api, _endpoints)
