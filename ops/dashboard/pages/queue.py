"""A queue: its messages by state, with a search."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

from werkzeug import Response
from werkzeug.exceptions import BadRequest

from ....brokers import DeadFilter, NotAvailable, State
from ....brokers.inspection import UnknownCursor
from ....core.printable import shown_id
from ..dead_query import read_page
from ..search import MAX_SECONDS, PAGE, Search, SearchResult, find_ids, search
from ..view import Route, View, page_id

#: The title and text of the page of a state without messages.
_EMPTY = {
    State.WAITING: ("Nothing is waiting.", "Jobs are here from send() until a worker takes them."),
    State.SCHEDULED: (
        "Nothing is scheduled.",
        "Jobs with a delay, and failed jobs that wait for their next attempt, are here.",
    ),
    State.IN_FLIGHT: (
        "Nothing is in flight.",
        "Jobs are here while a worker runs them, or has fetched them to run next.",
    ),
    State.DEAD: (
        "No dead letters.",
        "A job is here when its last attempt has failed, or when it can never succeed.",
    ),
}


def show(view: View) -> Response:
    """Show the messages of a queue in one state."""
    queue = _queue(view, view.id_argument("name"))
    inspector = view.broker.inspector
    counts = inspector.counts(queue)
    state = _state(view)
    what = _search(view)
    if what.id and (response := _exact(view, queue, what.id)) is not None:
        return response
    is_newest = (
        state is State.DEAD
        and view.argument("order", "") != "oldest"
        and (what.is_empty or inspector.reads_newest_first)
    )
    why_not, found = None, None
    try:
        found = _found(view, queue, state, what, is_newest=is_newest)
    except NotAvailable as error:
        why_not = str(error)
        is_newest = False
    except UnknownCursor:
        raise view.not_found("This page of the queue does not exist: begin at the first.") from None
    return view.render(
        "queue.html",
        title=queue,
        queue=queue,
        counts=counts,
        state=state,
        tabs=[(each, getattr(counts, each.value)) for each in State],
        search=asdict(what) | {"id": shown_id(what.id)},
        is_search=not what.is_empty,
        is_newest=is_newest,
        has_cursor="cursor" in view.request.args,
        found=found,
        why_not=why_not,
        empty_state=_EMPTY[state],
        now=view.now,
    )


def _found(view: View, queue: str, state: State, what: Search, *, is_newest: bool) -> SearchResult:
    inspector = view.broker.inspector
    cursor = view.request.args.get("cursor")
    if is_newest and inspector.reads_newest_first:
        which, matches = DeadFilter(queue), what.matches
        page = read_page(inspector, which, cursor, limit=PAGE, matches=matches, seconds=MAX_SECONDS)
        return SearchResult(page.letters, page.extent.looked_at, page.cursor)
    if is_newest and cursor is None:
        try:
            entries = inspector.newest_dead(queue, limit=PAGE)
        except NotAvailable:
            pass  # too many for this broker: from the oldest on
        else:
            return SearchResult(entries, len(entries), None)
    return search(inspector, queue, state, what, cursor)


def pause(view: View) -> Response:
    """Pause a queue, or resume it."""
    queue = _queue(view, view.id_field("name"))
    inspector = view.broker.inspector
    is_pause = view.field("do") == "pause"
    if is_pause:
        inspector.pause(queue)
    else:
        inspector.resume(queue)
    view.record("queues pause" if is_pause else "queues resume", queue=queue)
    done = "Paused: workers finish what they run and take nothing more." if is_pause else "Resumed."
    return view.redirect("queue", name=shown_id(queue), flash=done)


def find(view: View) -> Response:
    """Go to the job whose id begins with a text, in any queue; list the jobs if there are several.

    Without a match, the page of the id lists the jobs that it caused.
    """
    id = view.id_argument("id").strip()
    if not id:
        return view.redirect("overview")
    inspector = view.broker.inspector
    found = find_ids(inspector, id)
    if (found.has_more or not found.is_complete) and id not in {each for _, each in found.matches}:
        # Redis finds a whole id in a queue of any length.
        with suppress(NotAvailable):
            exact = inspector.find(id)
            found.matches = [(exact.queue, exact.id)] if exact is not None else found.matches
    if not found.matches:
        seen = "" if found.is_complete else f" Looked at {found.looked_at:,} ids; there are more."
        text = f"Found no job whose id begins with {shown_id(id)}.{seen}"
        return view.redirect("job", id=shown_id(id), flash=text, kind="problem")
    if (len(found.matches) == 1 and found.is_complete) or found.matches[0][1] == id:
        queue, whole = found.matches[0]
        return view.redirect("job", queue=shown_id(queue), id=shown_id(whole))
    return view.render("find.html", title="Jobs", id=id, found=found)


def _queue(view: View, name: str) -> str:
    if name not in view.site.queue_list.names(view.broker) and not view.broker.inspector.has_queue(
        name
    ):
        raise view.not_found(f"There is no queue {shown_id(name)}.")
    return name


def _state(view: View) -> State:
    try:
        return State(view.argument("state", "waiting"))
    except ValueError:
        raise BadRequest("Expected a state: waiting, scheduled, in_flight or dead.") from None


def _search(view: View) -> Search:
    def given(name: str) -> str:
        return view.argument(name, "").strip()[:200]

    return Search(page_id(given("id")), given("actor"), given("form"), given("error"))


def _exact(view: View, queue: str, id: str) -> Response | None:
    """Go to the job whose whole id was given."""
    try:
        found = view.broker.inspector.find(id, queue)
    except (NotAvailable, UnicodeEncodeError):
        return None
    if found is None:
        return None
    return view.redirect("job", queue=shown_id(queue), id=shown_id(found.id))


ROUTES = (
    Route("/queue", "queue", show),
    Route("/queue/pause", "queue.pause", pause, method="POST"),
    Route("/find", "find", find),
)
