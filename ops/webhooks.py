"""``formrelay webhooks``: the endpoints that fail or are disabled."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..brokers import get_broker
from ..config import get_settings
from ..core.clock import SYSTEM_CLOCK, iso
from ..core.errors import FormrelayError
from ..endpoints import EndpointRecord, MemoryRecords, Records, make_records
from .output import JsonOption, age, print_json, print_table

app = typer.Typer(help="Endpoints of webhooks: list, enable, disable.", no_args_is_help=True)
endpoints_app = typer.Typer(
    help="The endpoints that fail or are disabled; enable, disable.", invoke_without_command=True
)
app.add_typer(endpoints_app, name="endpoints")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `endpoints` lists it.")]


class NothingShared(FormrelayError):
    """Each worker process remembers endpoints for itself: set STATE_URL to a Redis."""


class NoSuchEndpoint(FormrelayError):
    """Nothing speaks against this endpoint."""


@endpoints_app.callback()
def endpoints(context: typer.Context, json: JsonOption = False) -> None:
    """The endpoints that fail or are disabled, the disabled ones first."""
    if context.invoked_subcommand is not None:
        return
    found = sorted(_records().all(), key=lambda one: (one.disabled_at is None, -one.failures))
    if json:
        print_json([_as_json(one) for one in found])
        return
    columns = ("endpoint", "host", "failures", "failing for", "last answer", "disabled")
    print_table("Endpoints", columns, [_row(one) for one in found], empty="no endpoint fails")


@endpoints_app.command()
def enable(id: IdArgument) -> None:
    """Deliver to an endpoint again; what died meanwhile is for `dlq replay`."""
    if not _records().enable(id):
        raise NoSuchEndpoint(f"nothing speaks against an endpoint {id!r}")
    print(f"enabled: {id}")


@endpoints_app.command()
def disable(id: IdArgument) -> None:
    """Deliver to an endpoint no more; what is sent to it goes to the dead letters."""
    is_new = _records().disable(id, why="by an operator", now=SYSTEM_CLOCK.time())
    print(f"{'disabled' if is_new else 'disabled already'}: {id}")


def _records() -> Records:
    records = make_records(get_settings().broker, get_broker())
    if isinstance(records, MemoryRecords):
        raise NothingShared
    return records


def _as_json(record: EndpointRecord) -> dict[str, Any]:
    stamps = ("failing_since", "last_at", "disabled_at")
    return {
        name: iso(value) if name in stamps and value is not None else value
        for name, value in record.to_json().items()
    }


def _row(record: EndpointRecord) -> tuple[Any, ...]:
    since, disabled = record.failing_since, record.disabled_at
    now = SYSTEM_CLOCK.time()
    return (
        record.id,
        record.host or None,
        record.failures,
        None if since is None else age(now - since),
        record.last_status,
        None if disabled is None else f"{age(now - disabled)} ago: {record.why}",
    )
