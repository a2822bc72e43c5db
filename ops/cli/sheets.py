"""``formrelay sheets connections``: the connections to the Google accounts of people."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import FormrelayError, InvalidJob
from ..boot import NOT_FINE
from ..output import print_json, print_table, say
from .options import JsonOption

if TYPE_CHECKING:
    from ...state.connections import Connection
    from ...state.tokens import Tokens

app = typer.Typer(help="Connections to Google accounts.", no_args_is_help=True)
connections = typer.Typer(help="List, add, pause, resume and remove connections.")
app.add_typer(connections, name="connections")

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the connection.")]

_COLUMNS = ("id", "state", "refreshed", "token ends", "cause")
_MAX_BYTES = 64 * 1024


class NoSharedConnections(FormrelayError):
    """Worker processes do not share connections: set STATE_URL to a Redis URL."""


class NoSuchConnection(FormrelayError):
    """There is no such connection."""


@connections.callback(invoke_without_command=True)
def list_connections(context: typer.Context, json: JsonOption = False) -> None:
    """List the connections, or change them by a command. Exits with 1 if one is paused."""
    if context.invoked_subcommand is not None:
        return
    found = _tokens().connections()
    if json:
        print_json([_as_json(each) for each in found])
    else:
        print_table("Connections", _COLUMNS, [*map(_row, found)], empty="no connections")
    if any(each.is_paused for each in found):
        raise typer.Exit(NOT_FINE)


@connections.command()
def add(
    id: IdArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="JSON of Google's token endpoint: refresh_token, and if you like access_token, "
            "expiry_date (ms), scope. '-' or none: standard input.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Store the tokens of a consent, in place of earlier ones, and end a pause.

    Jobs name the connection as connectionId. Tokens are never arguments, which every user of the
    machine can see.
    """
    tokens, given = _tokens(), _read(file)
    lasts = given.get("expires_in")
    ends = given.get("expiry_date")
    expires_at = None
    if isinstance(ends, int | float):
        expires_at = _time(ends / 1000)
    elif isinstance(lasts, int | float):
        expires_at = _time(SYSTEM_CLOCK.time() + lasts)
    try:
        tokens.consent(
            id,
            given["refresh_token"],
            access_token=given.get("access_token") or "",
            expires_at=expires_at,
            scope=given.get("scope") or "",
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _tell("added", id, json)


@connections.command()
def pause(
    id: IdArgument,
    cause: Annotated[str, typer.Option(help="Why; shown in the list.")] = "paused by an operator",
    json: JsonOption = False,
) -> None:
    """Pause a connection: its jobs wait, those of others do not."""
    tokens = _tokens()
    if not tokens.pause(id, cause):
        _check_known(tokens, id)
    _tell("paused", id, json)


@connections.command()
def resume(id: IdArgument, json: JsonOption = False) -> None:
    """Resume a paused connection. Its jobs run within ten minutes.

    After the consent has ended, add the tokens of a new consent instead, which resumes it too.
    """
    tokens = _tokens()
    if not tokens.resume(id):
        _check_known(tokens, id)
    _tell("resumed", id, json)


@connections.command()
def remove(id: IdArgument, json: JsonOption = False) -> None:
    """Forget a connection and its tokens. Its jobs wait until it is added again."""
    if not _tokens().remove(id):
        raise NoSuchConnection(f"there is no connection {id!r}")
    _tell("removed", id, json)


@connections.command()
def reencrypt(json: JsonOption = False) -> None:
    """Encrypt all tokens with the first key of STATE_KEY, so that you can drop the others."""
    count = _tokens().reencrypt()
    if json:
        print_json({"reencrypted": count})
    else:
        say(f"encrypted the tokens of {count} connections with the first key")


def _tokens() -> Tokens:
    """The tokens that all workers share.

    Raises:
        NoSharedConnections: they do not share any.
        ConfigError: there is no STATE_KEY.
    """
    from ...actors.sheets.resources import open_tokens

    if get_broker().state is None:
        raise NoSharedConnections
    return open_tokens(get_settings())


def _check_known(tokens: Tokens, id: str) -> None:
    if id not in {each.id for each in tokens.connections()}:
        raise NoSuchConnection(f"there is no connection {id!r}")


def _read(file: Path | None) -> dict[str, Any]:
    """Read the tokens; errors quote none.

    Raises:
        InvalidJob: it is not the JSON that is expected.
    """
    if file is None or str(file) == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    else:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    try:
        found = orjson.loads(data) if len(data) <= _MAX_BYTES else None
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise InvalidJob("expected a JSON object with refresh_token, got something else")
    for name in ("refresh_token", "access_token", "scope"):
        value = found.get(name)
        if value is not None and not (isinstance(value, str) and value.isprintable()):
            raise InvalidJob(f"expected {name} to be printable text, got something else")
    if not found.get("refresh_token"):
        raise InvalidJob(
            "expected a refresh_token, got none: let the person consent with access_type=offline "
            "and prompt=consent"
        )
    return found


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidJob("expected expiry_date in unix milliseconds, got another number") from None


def _row(each: Connection) -> tuple[Any, ...]:
    state = "paused" if each.is_paused else "active"
    return (each.id, state, _written(each.refreshed_at), _written(each.expires_at), each.cause)


def _as_json(each: Connection) -> dict[str, Any]:
    return {
        "id": each.id,
        "provider": each.provider,
        "state": "paused" if each.is_paused else "active",
        "cause": each.cause,
        "paused_at": _written(each.paused_at),
        "granted_at": _written(each.granted_at),
        "refreshed_at": _written(each.refreshed_at),
        "expires_at": _written(each.expires_at),
        "scope": each.scope or None,
    }


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _tell(what: str, id: str, json: bool) -> None:
    if json:
        print_json({what: id})
    else:
        say(f"{what} {id}")
