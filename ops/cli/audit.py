"""``formrelay audit``: who changed what, with a command or a dashboard."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...core.clock import SYSTEM_CLOCK, iso
from ...state import make_audit_log
from ...state.audit import AuditEntry
from ..audit import entries
from ..output import age, print_json, print_table
from .options import JsonOption, LimitOption, first_results, time_option
from .shared_state import shared_state


def audit(
    since: Annotated[
        float | None, time_option("At or after: ISO 8601 (UTC), or an age like 2h or 3d.")
    ] = None,
    who: Annotated[
        str | None, typer.Option(help="Only this operator, like ann or ann@host.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only actions that begin with this text, like 'dlq'.")
    ] = None,
    limit: LimitOption = 100,
    json: JsonOption = False,
) -> None:
    """List what operators changed, with commands and dashboards, the newest first.

    The shared store keeps the newest 10,000 entries. They contain no payload.

    Example: formrelay audit --since 1d --action dlq
    """
    found = first_results(_chosen(since, who, action), limit)
    if json:
        print_json([as_json(entry) for entry in found])
        return
    now = SYSTEM_CLOCK.time()
    columns = ("when", "who", "via", "action", "count", "target, filter, outcome")
    rows = [_row(entry, now) for entry in found]
    print_table("Audit log", columns, rows, empty="no entries: nothing was changed")


def _chosen(since: float | None, who: str | None, action: str | None) -> Any:
    for entry in entries(make_audit_log(shared_state()), since):
        is_by = who is None or who in (entry.who, entry.who.partition("@")[0])
        if is_by and entry.action.startswith(action or ""):
            yield entry


def as_json(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as JSON."""
    return {
        "at": None if entry.at is None else iso(entry.at.timestamp()),
        "who": entry.who,
        "via": entry.via,
        "action": entry.action,
        "target": entry.target,
        "filter": entry.filter,
        "count": entry.count,
        "outcome": entry.outcome,
    }


def _row(entry: AuditEntry, now: float) -> tuple[Any, ...]:
    when = None if entry.at is None else f"{age(now - entry.at.timestamp())} ago"
    outcome = "" if entry.outcome == "done" else entry.outcome
    about = "; ".join(filter(None, (entry.target, entry.filter, outcome)))
    return (when, entry.who, entry.via, entry.action, entry.count, about or None)
