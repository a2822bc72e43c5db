"""``formrelay suppressions``: the addresses that get no e-mail."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ...core.clock import SYSTEM_CLOCK
from ...core.errors import InvalidJob
from ...sinks.smtp.address import normal
from ...state import make_suppressions
from ...state.suppressions import Suppression, SuppressionReason, Suppressions, check_entry
from ..audit import audited, domain_words
from ..output import print_json, print_table, say
from .confirm import YesOption, confirm
from .options import DryRunOption, JsonOption, LimitOption, first_results, parse_duration
from .shared_state import shared_state

app = typer.Typer(help="Show and change the addresses that get no e-mail.", no_args_is_help=True)

AddressesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ADDRESS...", help="E-mail addresses. Default: standard input, one per line."
    ),
]
ReasonOption = Annotated[
    SuppressionReason | None, typer.Option(help="Only addresses with this reason.")
]
FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="CSV with a header line, or JSON lines, as `export` writes them; or one address "
        "per line. Default, and '-': standard input.",
    ),
]

_COLUMNS = ("address", "reason", "since", "expires", "count", "status")
_PAGE, _CHUNK = 500, 500


class InvalidEntries(InvalidJob):
    """Some lines are no suppressions; nothing was changed."""


@app.command("list")
def list_suppressions(
    reason: ReasonOption = None,
    after: Annotated[
        str, typer.Option(help="Only addresses after this one, in the order of the list.")
    ] = "",
    limit: LimitOption = 100,
    json: JsonOption = False,
) -> None:
    """List suppressed addresses in alphabetical order.

    Example: formrelay suppressions list --reason complaint
    """
    found = first_results(_all(_store(), reason, after), limit, ", or use `suppressions export`")
    if json:
        print_json([_as_json(entry) for entry in found])
        return
    rows = [_row(entry) for entry in found]
    print_table("Suppressions", _COLUMNS, rows, empty="no suppressed addresses")


@app.command()
def add(
    addresses: AddressesArgument = None,
    reason: Annotated[
        SuppressionReason, typer.Option(help="Reason stored with the addresses.")
    ] = SuppressionReason.MANUAL,
    expires_in: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="Like 12h or 30d. Default: never."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Suppress addresses: they get no further e-mail.

    Example: formrelay suppressions add ann@example.com
    """
    store = _store()
    expires = None
    if expires_in is not None:
        expires = datetime.fromtimestamp(SYSTEM_CLOCK.time() + expires_in, UTC)
    found = [Suppression(each, reason, None, expires) for each in _addresses(addresses)]
    with audited("suppressions add", domain_words(each.address for each in found)) as entry:
        entry.count = store.add(found)
    _tell("added", entry.count, len(found), json)


@app.command()
def remove(
    addresses: AddressesArgument = None, yes: YesOption = False, json: JsonOption = False
) -> None:
    """Allow e-mail to addresses again, and forget their bounces. Asks on a terminal.

    Example: formrelay suppressions remove ann@example.com
    """
    store = _store()
    found = _addresses(addresses)
    many = found[0] if len(found) == 1 else f"{len(found):,} addresses"
    confirm(f"Allow e-mail to {many} again, and forget why it was suppressed", yes=yes)
    with audited("suppressions remove", domain_words(found)) as entry:
        entry.count = store.remove(found)
    _tell("removed", entry.count, len(found), json)


@app.command("import")
def import_suppressions(
    file: FileArgument = None,
    reason: Annotated[
        SuppressionReason, typer.Option(help="Reason of entries that name none.")
    ] = SuppressionReason.MANUAL,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Add suppressions from a file. If a line is wrong, nothing is added.

    Importing a file twice changes nothing.

    Example: formrelay suppressions import bounced.csv
    """
    store = _store()
    found = _read_file(file, reason)
    new = 0
    if not dry_run:
        with audited("suppressions import", domain_words(each.address for each in found)) as entry:
            for start in range(0, len(found), _CHUNK):
                entry.count = new = new + store.add(found[start : start + _CHUNK])
    _tell("valid" if dry_run else "added", len(found) if dry_run else new, len(found), json)


@app.command()
def export(
    reason: ReasonOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of CSV.")] = False,
) -> None:
    """Print all suppressions as CSV, for `suppressions import`.

    Example: formrelay suppressions export > suppressions.csv
    """
    if not json:
        say(_csv_line(_COLUMNS))
    for entry in _all(_store(), reason):
        values = _as_json(entry)
        say(orjson.dumps(values).decode() if json else _csv_line(values.values()))


def _store() -> Suppressions:
    return make_suppressions(shared_state())


def _all(
    store: Suppressions, reason: SuppressionReason | None = None, after: str | None = ""
) -> Iterator[Suppression]:
    while after is not None:
        page = store.page(after, _PAGE, reason=reason)
        yield from page.entries
        after = page.after


def _addresses(given: list[str] | None) -> list[str]:
    """The addresses of the arguments, or of standard input, in their normal form."""
    lines = given or [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise typer.BadParameter("expected addresses, as arguments or one per line, got none")
    found, wrong = [], []
    for number, line in enumerate(lines, 1):
        try:
            found.append(normal(line))
        except InvalidJob as error:
            wrong.append(f"address {number}: {error}")
    _refuse(wrong)
    return list(dict.fromkeys(found))


def _read_file(file: Path | None, reason: SuppressionReason) -> list[Suppression]:
    try:
        file = None if str(file) == "-" else file
        text = sys.stdin.read() if file is None else file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidJob("expected a file in UTF-8, got another encoding") from None
    except OSError as error:
        raise typer.BadParameter(f"cannot read the file: {error.strerror}") from None
    found, wrong = [], []
    for number, fields in _lines(text):
        try:
            found.append(_entry(fields, reason))
        except (InvalidJob, ValueError, TypeError) as error:
            wrong.append(f"line {number}: {_said(error)}")
    _refuse(wrong)
    return found


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The number and fields of each entry; None for a line that is no JSON object."""
    start = text.lstrip()
    if start.startswith("{"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, _object(line)
    elif "," not in start.partition("\n")[0] and not start.lower().startswith("address"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, {"address": line.strip()}
    else:
        rows = csv.DictReader(io.StringIO(text))
        for row in rows:
            yield rows.line_num, {(key or "").strip().lower(): row[key] for key in row}


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _entry(fields: dict[str, Any] | None, reason: SuppressionReason) -> Suppression:
    """Make an entry; the errors quote no address."""
    if fields is None or not fields.get("address"):
        raise InvalidJob("expected an entry with an address, got none")
    given = str(fields.get("reason") or reason)
    if given not in set(SuppressionReason):
        raise InvalidJob(f"expected a reason ({', '.join(SuppressionReason)}), got another")
    count = str(fields.get("count") or 1)
    if not count.isascii() or not count.isdigit():
        raise InvalidJob("expected a whole number as count, got something else")
    entry = Suppression(
        normal(str(fields["address"])),
        SuppressionReason(given),
        _time(fields.get("since")),
        _time(fields.get("expires")),
        int(count[:9]),
        str(fields.get("status") or ""),
    )
    return check_entry(entry)


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise InvalidJob("expected a time like 2026-01-31T09:30:00Z, got something else") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _said(error: Exception) -> str:
    if isinstance(error, InvalidJob) or str(error).startswith("expected"):
        return str(error)
    return "expected an entry as `suppressions export` writes it, got something else"


def _refuse(wrong: list[str]) -> None:
    """Refuse input; names the first errors."""
    if wrong:
        more = [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise InvalidEntries("\n".join([*wrong[:5], *more, "nothing was changed"]))


def _tell(what: str, number: int, of: int, json: bool) -> None:
    if json:
        print_json({what: number, "of": of})
    else:
        say(f"{what}: {number} of {of}")


def _row(entry: Suppression) -> tuple[Any, ...]:
    """The cells of a table; days instead of times, so that a line fits a terminal."""
    days = (None if at is None else at.date() for at in (entry.since, entry.expires))
    return (entry.address, str(entry.reason), *days, entry.count, entry.status or None)


def _as_json(entry: Suppression) -> dict[str, Any]:
    return {
        "address": entry.address,
        "reason": str(entry.reason),
        "since": _written(entry.since),
        "expires": _written(entry.expires),
        "count": entry.count,
        "status": entry.status or None,
    }


def _written(time: datetime | None) -> str | None:
    """A time with exactly the milliseconds that the store has: an import of it changes nothing."""
    if time is None:
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _csv_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow("" if each is None else each for each in values)
    return line.getvalue()
