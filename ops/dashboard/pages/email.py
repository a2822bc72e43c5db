"""E-mail: the addresses that get none, and how many e-mails to each domain bounced.

Addresses are personal data: forms send them in the body, never in a URL, and readers see them
shortened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from werkzeug import Response

from ....actors.emails.suppress import MAX_BOUNCED, MIN_BOUNCES, domain_rates
from ....core.errors import InvalidJob
from ....sinks.smtp.address import normal
from ....state import make_bounce_rates, make_suppressions
from ....state.suppressions import Suppression, SuppressionReason, Suppressions
from ...audit import domain_words
from ..view import Route, View

#: Number of entries on a page, and maximum number of addresses that are added at once.
_PAGE, _MAX_ADDED = 100, 500
#: Maximum number of domains and hours whose bounces are shown.
_MAX_RATES = 100
#: Maximum number of calls for a page: a call reads a bounded number of entries.
_MAX_CALLS = 20
#: Days for which an address is suppressed, as a form offers them; None for ever.
_DAYS = {"forever": None, "week": 7, "month": 30, "quarter": 90}


@dataclass(frozen=True, slots=True)
class _Found:
    entries: list[Suppression]
    after: str | None


def show(view: View) -> Response:
    """Show the first suppressed addresses, of a reason if it is given."""
    return _page(view, reason=view.argument("reason", ""))


def search(view: View) -> Response:
    """Show the suppressed addresses that begin with a text, or those after a page."""
    return _page(
        view,
        reason=view.field("reason", ""),
        prefix=view.field("prefix", "").strip().lower(),
        after=view.field("after", ""),
    )


def add(view: View) -> Response:
    """Suppress addresses."""
    store = _store(view)
    words = view.field("addresses", "").replace(",", " ").split()
    if not words or len(words) > _MAX_ADDED:
        text = f"Enter 1 to {_MAX_ADDED} addresses, separated by spaces or lines."
        return view.redirect("email", flash=text, kind="problem")
    try:
        addresses = [normal(word) for word in words]
    except InvalidJob as error:  # quotes no address
        return view.redirect("email", flash=f"Nothing was added: {error}", kind="problem")
    days = _DAYS.get(view.field("for", "forever"))
    expires = None if days is None else datetime.fromtimestamp(view.now, UTC) + timedelta(days)
    entries = [Suppression(each, SuppressionReason.MANUAL, None, expires) for each in addresses]
    count = store.add(entries)
    view.record("suppressions add", count=count, domains=domain_words(addresses))
    return view.redirect("email", flash=f"Added {count} of {len(entries)}.")


def remove(view: View) -> Response:
    """Allow e-mail to an address again."""
    try:
        address = normal(view.field("address"))
    except InvalidJob:
        return view.redirect("email", flash="This is no address.", kind="problem")
    count = _store(view).remove([address])
    view.record("suppressions remove", count=count, domains=domain_words([address]))
    text = "The address gets e-mail again." if count else "The address was not suppressed."
    return view.redirect("email", flash=text, kind="done" if count else "problem")


def _page(view: View, *, reason: str, prefix: str = "", after: str = "") -> Response:
    chosen = SuppressionReason(reason) if reason in set(SuppressionReason) else None
    is_shared = view.broker.state is not None
    found = _find(_store(view), chosen, prefix, after) if is_shared else _Found([], None)
    return view.render(
        "email.html",
        title="E-mail",
        entries=found.entries,
        after=found.after,
        total=_store(view).count() if is_shared else 0,
        reason=chosen,
        reasons=list(SuppressionReason),
        prefix=prefix,
        days=list(_DAYS),
        is_shared=is_shared,
        shown=_whole if view.may_change else _shortened,
        rates=domain_rates(make_bounce_rates(view.broker.state), _MAX_RATES) if is_shared else [],
        least_bounces=MIN_BOUNCES,
        least_share=MAX_BOUNCED,
        now=view.now,
    )


def _find(store: Suppressions, reason: SuppressionReason | None, prefix: str, after: str) -> _Found:
    """Find entries by prefix, in bounded calls."""
    entries: list[Suppression] = []
    # Addresses that begin with the prefix follow it; the prefix itself may be an address.
    if prefix and not after and "@" in prefix:
        entries += [each for each in _exact(store, prefix) if reason in (None, each.reason)]
    cursor: str | None = max(after, prefix)
    for _ in range(_MAX_CALLS):
        page = store.page(cursor or "", _PAGE - len(entries), reason=reason)
        entries += [each for each in page.entries if each.address.startswith(prefix)]
        is_past = bool(page.entries) and not page.entries[-1].address.startswith(prefix)
        cursor = None if is_past else page.after
        if cursor is None or len(entries) >= _PAGE:
            break
    return _Found(entries, cursor)


def _exact(store: Suppressions, address: str) -> list[Suppression]:
    try:
        return [*store.find([normal(address)]).values()]
    except (InvalidJob, ValueError):
        return []


def _store(view: View) -> Suppressions:
    if view.broker.state is None:
        raise view.not_found("Workers share no suppressions: set STATE_URL to a Redis URL.")
    return make_suppressions(view.broker.state)


def _whole(address: str) -> str:
    return address


def _shortened(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}"


ROUTES = (
    Route("/email", "email", show, label="E-mail"),
    Route("/email/search", "email.search", search, method="POST"),
    Route("/email/add", "email.add", add, method="POST"),
    Route("/email/remove", "email.remove", remove, method="POST"),
)
