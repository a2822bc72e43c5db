"""Dead letters: grouped by error, listed, searched; replayed and deleted as a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from werkzeug import Response
from werkzeug.exceptions import BadRequest

from ....brokers import Entry
from ....brokers.inspection import Action, Extent, UnknownCursor
from ....core.errors import BrokerError
from ....core.failure import Reason
from ....state.task_store import TaskRecord
from ...dead_groups import group_dead_letters, group_of
from ..dead_forms import ask_about_ids, letter_value, read_letters
from ..dead_query import (
    COUNT_AT_MOST,
    LOOK_AT,
    LOOK_AT_MOST,
    WINDOWS,
    DeadPage,
    DeadQuery,
    count_dead,
    query_words,
    read_page,
)
from ..tasks import Selection, TooManyTasks
from ..view import Route, View, page_id

#: Number of dead letters on a page.
_LETTERS = 50
#: Seconds between two refreshes: grouping takes a second with many dead letters.
_REFRESH_SECONDS = 20
#: Maximum number of groups on a page.
_MAX_GROUPS = 200


def show(view: View) -> Response:
    """Show the dead letters grouped by error."""
    query, broker = DeadQuery.read(view.request.args), view.broker
    if view.argument("id", "").strip():
        return _by_id_prefix(view, query)
    looks_further = view.argument("look", "") == "further"
    found = group_dead_letters(
        broker.inspector,
        query.filter(view.now),
        limit=LOOK_AT_MOST if looks_further else LOOK_AT,
        most_groups=_MAX_GROUPS,
        newest_first=True,
    )
    counts = broker.inspector.counts_of(view.site.queue_list.names(broker))
    return view.render(
        "dead.html",
        title="Dead letters",
        found=found,
        total=sum(each.dead for each in counts),
        total_is_lower_bound=any(each.dead_is_lower_bound for each in counts),
        further=None if looks_further else view.url("dead", **query.arguments(look="further")),
        further_number=LOOK_AT_MOST,
        refresh_seconds=_REFRESH_SECONDS,
        running=_running(view),
        **_shared(view, query),
    )


def _running(view: View) -> list[TaskRecord]:
    """The tasks that run or wait; none while the shared store is unavailable."""
    try:
        return [task for task in view.site.tasks.store(view.broker).newest() if not task.is_over]
    except BrokerError:
        return []


def letters(view: View) -> Response:
    """List the dead letters that match, such as those of a group."""
    query = DeadQuery.read(view.request.args)
    cursor = view.argument("cursor", "") or None
    try:
        page = read_page(view.broker.inspector, query.filter(view.now), cursor, limit=_LETTERS)
    except UnknownCursor:
        raise view.not_found("This page does not exist: begin at the first.") from None
    return _list(view, query, page)


def _by_id_prefix(view: View, query: DeadQuery) -> Response:
    """List the dead letters whose id begins with a text."""
    inspector, prefix = view.broker.inspector, page_id(view.argument("id").strip())
    ids = inspector.dead_ids(prefix, query.queue or None, limit=_LETTERS + 1)
    found = (inspector.dead_letter(queue, id) for queue, id in ids[:_LETTERS])
    letters = [letter for letter in found if letter is not None]
    has_more = len(ids) > _LETTERS
    return _list(view, query, DeadPage(letters, Extent(is_complete=not has_more), None))


def _list(view: View, query: DeadQuery, page: DeadPage) -> Response:
    def page_at(cursor: str | None) -> str:
        return view.url("dead.letters", **query.arguments(), cursor=cursor)

    letters, has_cursor = page.letters, bool(view.argument("cursor", ""))
    return view.render(
        "dead_letters.html",
        title="Dead letters",
        letters=[_Row(each, letter_value(each.queue, each.id)) for each in letters],
        group=group_of(letters[0]) if letters and query.group else None,
        extent=page.extent,
        first=page_at(None) if has_cursor else None,
        next=None if page.cursor is None else page_at(page.cursor),
        id=view.argument("id", "").strip(),
        **_shared(view, query),
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A dead letter in a list.

    Attributes:
        value: the value of its checkbox; see :func:`.dead_forms.letter_value`.
    """

    letter: Entry
    value: str


def _shared(view: View, query: DeadQuery) -> dict[str, Any]:
    return {
        "query": query,
        "queues": view.site.queue_list.names(view.broker),
        "windows": list(WINDOWS),
        "reasons": list(Reason),
        "fields": query.arguments(),
        "reads_newest": view.broker.inspector.reads_newest_first,
        "now": view.now,
    }


# -- replaying and deleting ----------------------------------------------------------------


def confirm(view: View) -> Response:
    """Ask before dead letters are replayed or deleted; show the selection and its number."""
    action, ids = _action(view), read_letters(view)
    if ids:
        return ask_about_ids(view, action, ids, back=view.url("dead.letters", **_back(view)))
    if view.field("selected", ""):
        return view.redirect(
            "dead.letters", flash="Select dead letters first.", kind="problem", **_back(view)
        )
    inspector, now = view.broker.inspector, view.now
    query = DeadQuery.read(view.request.form).pinned(now)
    sample = None
    if query.group:
        extent = Extent(at_most=COUNT_AT_MOST)
        first = next(inspector.recent_dead(query.filter(now), extent=extent), None)
        sample = None if first is None else group_of(first)
    return view.render(
        "dead_confirm.html",
        title=f"{action.capitalize()} dead letters",
        action=action,
        count=count_dead(inspector, query.filter(now)),
        words=query_words(query, now),
        group=sample,
        fields=[*query.arguments().items()],
        values=[],
        back=view.url("dead.letters" if query.group else "dead", **_back(view)),
        note=None,
    )


def start(view: View) -> Response:
    """Start a task that replays or deletes."""
    action, ids = _action(view), read_letters(view)
    expected, rate = (_whole(view.field(name, "")) for name in ("expected", "rate"))
    query = DeadQuery.read(view.request.form)
    if not ids and query.until is None:
        raise BadRequest("expected the fields of the page that asks, got none")
    selection = Selection(query.filter(view.now), ids, expected, rate or None)
    try:
        id = view.site.tasks.start(view.broker, action, selection, view.operator)
    except TooManyTasks as error:
        return view.redirect("dead", flash=str(error), kind="problem")
    return view.redirect("task", id=id)


def _action(view: View) -> Action:
    match view.field("action"):
        case "replay":
            return "replay"
        case "delete":
            return "delete"
        case _:
            raise BadRequest("expected the action replay or delete, got another")


def _back(view: View) -> dict[str, str]:
    return DeadQuery.read(view.request.form).arguments()


def _whole(text: str) -> int | None:
    """A whole number; None for another text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


ROUTES = (
    Route("/dead", "dead", show, label="Dead letters"),
    Route("/dead/letters", "dead.letters", letters),
    Route("/dead/confirm", "dead.confirm", confirm, method="POST"),
    Route("/dead/start", "dead.start", start, method="POST"),
)
