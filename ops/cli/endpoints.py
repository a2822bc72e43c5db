"""``formrelay webhooks endpoints``: failing and disabled endpoints, and their circuit breakers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import typer

from ...actors import declare_actors
from ...actors.webhooks.actor import endpoint_of_url
from ...actors.webhooks.registry import EndpointRecord, EndpointRegistry
from ...actors.webhooks.resources import make_registry
from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK, iso
from ...core.errors import FormrelayError
from ...core.printable import shown_id
from ..audit import record
from ..endpoints import endpoint_json, find_urls, near, shown_url
from ..output import age, print_json, print_table, say, say_error
from .candidates import endpoint_ids
from .confirm import YesOption, confirm
from .options import JsonOption, id_argument, only_match
from .shared_state import shared_state

app = typer.Typer(invoke_without_command=True)

IdArgument = Annotated[
    str,
    id_argument(
        "Endpoint id or unique prefix, as listed by `webhooks endpoints`; or its URL.",
        complete=endpoint_ids,
    ),
]
RevealOption = Annotated[
    bool, typer.Option("--reveal", help="Show whole URLs, which may contain secrets.")
]
_STAMPS = ("failing_since", "last_at", "disabled_at", "open_until")


class NoSuchEndpoint(FormrelayError):
    """There is no such endpoint, or it is neither failing nor disabled."""


@app.callback()
def endpoints(
    context: typer.Context, reveal: RevealOption = False, json: JsonOption = False
) -> None:
    """List failing and disabled endpoints; enable or disable an endpoint.

    URLs come from waiting and dead-lettered jobs, because the endpoint registry
    stores only hosts. `[…]` replaces the query and parts that may be keys.

    Example: formrelay webhooks endpoints --json
    """
    if context.invoked_subcommand is not None:
        return
    records = sorted(_registry().all(), key=lambda each: (each.disabled_at is None, -each.failures))
    urls = _urls({each.id for each in records})
    now = SYSTEM_CLOCK.time()
    found = [endpoint_json(each.to_json(), now) for each in records]
    for each in found:
        url = urls.get(each["id"])
        each["url"] = url if url is None or reveal else shown_url(url)
    if reveal:
        record("webhooks endpoints --reveal", count=len(urls))
    if json:
        print_json([_as_json(each) for each in found])
        return
    columns = ("endpoint", "state", "fails", "last", "details")
    rows = [_row(each, now) for each in found]
    print_table("Endpoints", columns, rows, empty="no failing endpoints")


@app.command()
def enable(id: IdArgument, json: JsonOption = False) -> None:
    """Enable an endpoint again. Dead letters stay until you run `dlq replay`.

    Example: formrelay webhooks endpoints enable url_0f8a5c21d3b94e76
    """
    records = {each.id for each in _registry().all()}
    id = _whole_id(id, records)
    if not _registry().enable(id):
        says = f"the endpoint '{shown_id(id)}' is neither failing nor disabled"
        raise NoSuchEndpoint(says + _resembling(id, records))
    record("webhooks endpoints enable", shown_id(id))
    _tell("enabled", id, json)


@app.command()
def disable(id: IdArgument, yes: YesOption = False, json: JsonOption = False) -> None:
    """Disable an endpoint: its webhooks are dead-lettered without an attempt.

    An endpoint that works is not listed: name it by its URL, or by its
    endpointId with --yes.

    Example: formrelay webhooks endpoints disable https://example.com/hook
    """
    given = id
    records = {each.id: each for each in _registry().all()}
    urls = _urls(None)
    known = {*records, *urls}
    id = _whole_id(id, known)
    if id not in known and id == given and not yes:
        raise NoSuchEndpoint(
            f"no failing endpoint and no job has the endpoint id '{shown_id(id)}'"
            f"{_resembling(id, known)}: check the id; to disable it all the same, add --yes"
        )
    confirm(f"Disable the endpoint {_named(id, records.get(id), urls.get(id))}", yes=yes)
    is_new = _registry().disable(id, why="by an operator", now=SYSTEM_CLOCK.time())
    if is_new:
        record("webhooks endpoints disable", shown_id(id))
    _tell("disabled" if is_new else "already disabled", id, json)
    if id not in known:
        say_error("note: no failing endpoint and no job has this id")


def _tell(done: str, id: str, json: bool) -> None:
    if json:
        print_json({"id": shown_id(id), "done": done})
    else:
        say(f"{done}: {shown_id(id)}")


def _registry() -> EndpointRegistry:
    return make_registry(shared_state())


def _urls(wanted: Collection[str] | None) -> dict[str, str]:
    declare_actors()
    return find_urls(get_broker().inspector, get_settings().webhooks.queue, wanted)


def _whole_id(given: str, known: Collection[str]) -> str:
    """Return the id of an endpoint by its URL or a unique prefix; what is given if none matches."""
    if given in known:
        return given
    if given.startswith(("https://", "http://")):
        return endpoint_of_url(given)
    match = only_match(given, "endpoint", [("", id) for id in known if id.startswith(given)])
    return match[1] if match else given


def _resembling(id: str, known: Collection[str]) -> str:
    names = ", ".join(map(shown_id, near(id, known)))
    return f" (similar: {names})" if names else ""


def _named(id: str, found: EndpointRecord | None, url: str | None) -> str:
    where = shown_url(url) if url else found.host if found is not None else ""
    return f"{shown_id(id)} ({where})" if where else shown_id(id)


def _as_json(found: dict[str, Any]) -> dict[str, Any]:
    shown = {
        name: iso(value) if name in _STAMPS and value is not None else value
        for name, value in found.items()
    }
    return shown | {"id": shown_id(found["id"])}


def _row(found: dict[str, Any], now: float) -> tuple[Any, ...]:
    details = [found["url"] or found["host"]]
    if found["failing_since"] is not None:
        details.append(f"failing for {age(now - found['failing_since'])}")
    if found["state"] == "open":
        left = age(found["open_until"] - now)
        details.append(f"circuit open until {iso(found['open_until'])} ({left} left)")
    if found["disabled_at"] is not None:
        details.append(f"disabled {age(now - found['disabled_at'])} ago: {found['why']}")
    return (
        shown_id(found["id"]),
        found["state"],
        found["failures"],
        found["last_status"],
        "; ".join(filter(None, details)) or None,
    )
