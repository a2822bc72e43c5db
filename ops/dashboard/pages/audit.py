"""The audit log: who changed what."""

from __future__ import annotations

from itertools import islice

from werkzeug import Response

from ....state.audit import AuditEntry
from ...audit import entries, open_log
from ..view import Route, View

_LIMIT = 100
#: Seconds of the choices of the page.
_WINDOWS = {"hour": 3_600.0, "day": 86_400.0, "week": 604_800.0, "all": None}


def show(view: View) -> Response:
    """Show the newest entries, of an operator, an action or a time if they are given."""
    who, action = view.argument("who", "").strip(), view.argument("action", "").strip()
    window = view.argument("window", "all")
    seconds = _WINDOWS.get(window)
    limit = _limit(view.argument("limit", ""))
    since = None if seconds is None else view.now - seconds
    found = (
        entry for entry in entries(open_log(view.broker), since) if _matches(entry, who, action)
    )
    shown = list(islice(found, limit + 1))
    more = view.url("audit", who=who, action=action, window=window, limit=limit + _LIMIT)
    return view.render(
        "audit.html",
        title="Audit",
        entries=shown[:limit],
        more=more if len(shown) > limit else None,
        is_shared=view.broker.state is not None,
        is_filtered=bool(who or action or seconds),
        who=who,
        action=action,
        window=window if window in _WINDOWS else "all",
        windows=list(_WINDOWS),
        now=view.now,
    )


def _matches(entry: AuditEntry, who: str, action: str) -> bool:
    return who.lower() in entry.who.lower() and action.lower() in entry.action.lower()


def _limit(text: str) -> int:
    return min(int(text), 10_000) if text.isascii() and text.isdigit() and int(text) else _LIMIT


ROUTES = (Route("/audit", "audit", show, label="Audit"),)
