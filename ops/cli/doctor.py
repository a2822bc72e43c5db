"""``formrelay doctor``: check the broker, the sinks and the shared state."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict

import typer

from ...actors import declare_actors
from ...actors.webhooks.registry import MemoryRegistry
from ...actors.webhooks.resources import make_registry
from ...brokers import get_broker
from ...config import get_settings
from ...core.errors import FormrelayError
from ..boot import NOT_FINE, is_embedded_clickhouse
from ..findings import Finding
from ..output import print_json, print_table
from ..time_limits import exceeding_time_limits
from .email_findings import check_smtp
from .options import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Check broker, sinks and shared state. Exits with 1 if a check fails."""
    declare_actors()
    found = [finding for check in _CHECKS for finding in _run(check)]
    if json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(finding.what, finding.state, finding.says) for finding in found]
        print_table("Doctor", ["check", "state", "details"], rows, empty="")
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(NOT_FINE)


def _run(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a check; an error is a finding too."""
    try:
        yield from check()
    except FormrelayError as error:
        yield Finding(check.__name__.strip("_").removeprefix("check_"), "bad", str(error))


def _broker() -> Iterator[Finding]:
    broker = get_broker()
    broker.ping()
    tried = broker.try_access()
    says = f"{get_settings().broker.kind} answers; jobs can be sent, fetched and settled"
    yield Finding("broker", "ok", says)
    for weakness in (*tried, *broker.weaknesses()):
        yield Finding("broker", "weak", weakness)


def _time_limits() -> Iterator[Finding]:
    for problem in exceeding_time_limits(get_broker()):
        yield Finding("time limits", "bad", problem)


def _old_keys() -> Iterator[Finding]:
    if importlib.util.find_spec("redis") is None:
        return
    from ..old_keys import find_old_keys

    if found := ", ".join(find_old_keys()):
        says = f"Redis holds keys of an older version that this namespace does not use: {found}"
        todo = "if they belong to this environment, run formrelay migrate --old-keys"
        yield Finding("old keys", "weak", f"{says}; {todo}")


def _clickhouse() -> Iterator[Finding]:
    from ...actors.resources import clickhouse, clickhouse_schema
    from ...sinks.clickhouse import MODERN, migrate

    url = get_settings().clickhouse.secret("url")
    if url is None:
        yield Finding("clickhouse", "weak", "CLICKHOUSE_URL is not set: events cannot be recorded")
        return
    client = clickhouse()
    client.ping()
    version = ".".join(map(str, client.version()))
    yield Finding("clickhouse", "ok", f"version {version} answers")
    missing = migrate.plan(client, clickhouse_schema())
    if missing and not is_embedded_clickhouse(url):
        yield Finding(
            "clickhouse", "bad", f"missing migrations ({', '.join(missing)}): run formrelay migrate"
        )
    for note in migrate.notes(client, clickhouse_schema()):
        yield Finding("clickhouse", "weak", note)
    if client.version() < MODERN:
        says = "this version has no deduplication token: count events in the view events_once"
        yield Finding("clickhouse", "weak", says)


def _api() -> Iterator[Finding]:
    from ...actors.resources import api

    section = get_settings().api
    if section.url is None:
        yield Finding("api", "weak", "API_URL is not set: submissions cannot be saved")
        return
    api()
    if section.secret("token") is None:
        yield Finding("api", "weak", "API_TOKEN is not set: requests are sent without a token")
    else:
        yield Finding("api", "ok", f"{section.url} is configured (not called)")


def _sheets() -> Iterator[Finding]:
    settings = get_settings()
    if not settings.sheets.is_configured:
        says = "no Google account is configured: sheets are not updated, workers leave their queue"
        yield Finding("sheets", "weak", f"{says} alone (SHEETS_SERVICE_ACCOUNT_FILE)")
        return
    from ...actors.sheets.resources import sheet_resources

    connections = sheet_resources().connections
    if connections.account is not None:
        connections.account.mint()
        yield Finding("sheets", "ok", "Google accepts the service account")
    if get_broker().state is None:
        says = "rows may be written twice, and connections are kept in each process alone"
        yield Finding("sheets", "weak", f"{says}: set STATE_URL to a Redis URL")
    elif connections.tokens is not None:
        unreadable = connections.tokens.unreadable()
        for name in unreadable:
            says = f"no key of STATE_KEY decrypts the tokens of connection {name}"
            yield Finding("sheets", "bad", f"{says}: add that key, or let the person consent again")
        known = connections.tokens.connections()
        for each in known:
            if each.is_paused:
                yield Finding("sheets", "bad", f"connection {each.id} is paused: {each.cause}")
        yield Finding("sheets", "ok", f"{len(known)} connections are stored")


def _monitoring() -> Iterator[Finding]:
    if get_settings().monitoring.enabled:
        says = "WORKER_MONITORING_ENABLED has no effect yet: monitoring is coming"
        yield Finding("monitoring", "weak", says)


def _endpoints() -> Iterator[Finding]:
    registry = make_registry(get_broker().state)
    if isinstance(registry, MemoryRegistry):
        says = "processes do not share endpoints and idempotency keys: set STATE_URL to a Redis URL"
        yield Finding("endpoints", "weak", says)
        return
    count = len(registry.disabled())
    yield Finding("endpoints", "ok", f"{count} are disabled" if count else "none is disabled")


_CHECKS = (
    *(_broker, _time_limits, _old_keys, _clickhouse, _api, check_smtp, _sheets, _endpoints),
    _monitoring,
)
