"""``formrelay sheets connections``: the connections to the Google accounts of people."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import FormrelayError, InvalidJob
from ...core.printable import shown_id
from ..audit import audited, record
from ..output import age, print_json, print_table, say
from ..worker.boot import NOT_FINE
from .candidates import connection_ids
from .confirm import YesOption, confirm
from .options import JsonOption, id_argument, only_match
from .shared_state import shared_state

if TYPE_CHECKING:
    from ...state.connections import Connection
    from ...state.tokens import Tokens

app = typer.Typer(help="Connections to Google accounts.", no_args_is_help=True)
connections = typer.Typer()
app.add_typer(connections, name="connections")

IdArgument = Annotated[
    str, id_argument("Id of the connection, or a unique prefix.", complete=connection_ids)
]

_COLUMNS = ("id", "state", "refreshed", "token ends", "cause")
_MAX_BYTES = 64 * 1024


class NoSuchConnection(FormrelayError):
    """There is no such connection."""


@connections.callback(invoke_without_command=True)
def list_connections(context: typer.Context, json: JsonOption = False) -> None:
    """List, add, pause, resume and remove connections.

    Exits with 1 if a listed connection is paused.

    Example: formrelay sheets connections --json
    """
    if context.invoked_subcommand is None:
        _list(json)


@connections.command("list")
def list_by_name(json: JsonOption = False) -> None:
    """List connections, as without a command. Exits with 1 if one is paused.

    Example: formrelay sheets connections list --json
    """
    _list(json)


def _list(json: bool) -> None:
    found = _tokens().connections()
    if json:
        print_json([_as_json(each) for each in found])
    else:
        now = SYSTEM_CLOCK.time()
        rows = [_row(each, now) for each in found]
        print_table("Connections", _COLUMNS, rows, empty="no connections")
    if any(each.is_paused for each in found):
        raise typer.Exit(NOT_FINE)


@connections.command()
def add(
    id: Annotated[str, id_argument("Whole id of the connection.", complete=connection_ids)],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="JSON of Google's token endpoint: refresh_token; optional: access_token with "
            "expires_in (s) or expiry_date (ms), scope. '-' or none: standard input.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Store the tokens of a consent, and resume the connection.

    They replace earlier tokens. Jobs name the connection as connectionId.
    Tokens cannot be arguments: every user of the machine could see them.

    Example: formrelay sheets connections add ann tokens.json
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
    record("sheets connections add", id)
    _tell("added", id, json)


@connections.command()
def pause(
    id: IdArgument,
    cause: Annotated[
        str, typer.Option(help="Reason, shown in the list.")
    ] = "paused by an operator",
    json: JsonOption = False,
) -> None:
    """Pause a connection. Its jobs wait; jobs of other connections go on.

    Example: formrelay sheets connections pause ann
    """
    tokens = _tokens()
    id = _whole_id(tokens, id)
    with audited("sheets connections pause", id):
        tokens.pause(id, cause)
    _tell("paused", id, json)


@connections.command()
def resume(id: IdArgument, json: JsonOption = False) -> None:
    """Resume a paused connection. Its jobs run within ten minutes.

    If its consent has ended, add the tokens of a new consent instead, which
    also resumes it.

    Example: formrelay sheets connections resume ann
    """
    tokens = _tokens()
    id = _whole_id(tokens, id)
    with audited("sheets connections resume", id):
        tokens.resume(id)
    _tell("resumed", id, json)


@connections.command()
def remove(id: IdArgument, yes: YesOption = False, json: JsonOption = False) -> None:
    """Remove a connection and its tokens. Its jobs wait until it is added again.

    On a terminal, asks first.

    Example: formrelay sheets connections remove ann
    """
    tokens = _tokens()
    id = _whole_id(tokens, id)
    confirm(f"Remove the connection '{shown_id(id)}' and its tokens", yes=yes)
    with audited("sheets connections remove", id):
        tokens.remove(id)
    _tell("removed", id, json)


@connections.command()
def reencrypt(json: JsonOption = False) -> None:
    """Encrypt all tokens with the first key of STATE_KEY.

    Then you can remove the other keys.

    Example: formrelay sheets connections reencrypt
    """
    count = _tokens().reencrypt()
    if json:
        print_json({"reencrypted": count})
    else:
        what = "1 connection" if count == 1 else f"{count} connections"
        say(f"encrypted the tokens of {what} with the first key")


def _tokens() -> Tokens:
    """The tokens that all workers share.

    Raises:
        NoSharedState: they share none.
        ConfigError: there is no STATE_KEY.
    """
    from ...actors.resources import open_tokens

    shared_state()
    return open_tokens(get_settings())


def _whole_id(tokens: Tokens, given: str) -> str:
    """Return the id of the one connection that has this id, or whose id begins with it.

    Raises:
        NoSuchConnection: there is none.
    """
    known = {each.id for each in tokens.connections()}
    if given in known:
        return given
    match = only_match(given, "connection", [("", id) for id in known if id.startswith(given)])
    if match is None:
        raise NoSuchConnection(f"there is no connection '{shown_id(given)}'")
    return match[1]


def _read(file: Path | None) -> dict[str, Any]:
    """Read the tokens. Errors contain no token.

    Raises:
        InvalidJob: the input is not a JSON object with a refresh token.
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


def _row(each: Connection, now: float) -> tuple[Any, ...]:
    """The cells of a table; times as in other tables, so that a line fits a terminal."""
    state = "paused" if each.is_paused else "active"
    refreshed, ends = each.refreshed_at, each.expires_at
    ago = None if refreshed is None else f"{age(now - refreshed.timestamp())} ago"
    left = None if ends is None else ends.timestamp() - now
    rest = None if left is None else f"in {age(left)}" if left > 0 else "ended"
    return (shown_id(each.id), state, ago, rest, each.cause)


def _as_json(each: Connection) -> dict[str, Any]:
    return {
        "id": shown_id(each.id),
        "provider": each.provider,
        "state": "paused" if each.is_paused else "active",
        "cause": each.cause,
        "paused_at": _timestamp(each.paused_at),
        "granted_at": _timestamp(each.granted_at),
        "refreshed_at": _timestamp(each.refreshed_at),
        "expires_at": _timestamp(each.expires_at),
        "scope": each.scope or None,
    }


def _timestamp(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _tell(what: str, id: str, json: bool) -> None:
    if json:
        print_json({what: shown_id(id)})
    else:
        say(f"{what} {shown_id(id)}")
