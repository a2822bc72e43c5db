"""A job: its state, failure and payload; run now, cancel, replay, edit and replay, delete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from werkzeug import Response

from ....actors.payload_secrets import ENCRYPTED
from ....brokers import Entry, NotAvailable, State
from ....brokers.attempt_history import attempts_of
from ....core.errors import FormrelayError
from ....core.past_attempts import DEAD, DEFER, RETRY, PastAttempt
from ....core.printable import shown_id
from ....middleware.delivery import BATCH
from ...caused_jobs import CausedJobs, cause_in, find_caused
from ...editing import NotEditable, edited, why_not_editable
from ...masking import json_text, masked, without_tokens
from ...progress import progress_json
from ..view import Kind, Route, View

#: Options with the follow-up messages of a job, and in which case each is sent.
_FOLLOW_UPS = {
    "pipe_target": "next in its pipeline",
    "on_success": "if it succeeds",
    "on_failure": "at each failure",
    "on_retry_exhausted": "if its last attempt fails",
}

#: Why a job is not found on a broker that lists only dead letters.
_NOT_DEAD = (
    "The job is not a dead letter. It may wait, run or be done: this broker lists only dead "
    "letters."
)
#: The names of outcomes on the page.
_OUTCOMES = {RETRY: "retried", DEFER: "deferred", DEAD: "dead-lettered"}
#: Held from reading a dead letter until it is deleted: a second click would send the job twice.
_sending_edited = Lock()


@dataclass(frozen=True, slots=True)
class FollowUpMessage:
    """A message that this job sends when it ends.

    Attributes:
        when: in which case it is sent.
        id: its id; None if it is not known before it is sent.
    """

    when: str
    actor: str
    queue: str | None = None
    id: str | None = None


def show(view: View) -> Response:
    """Show a job, its payload masked. Without a queue, the job may be in any queue."""
    id = view.id_argument("id")
    if "queue" in view.request.args:
        return _page(view, view.id_argument("queue"), id)
    return _in_any_queue(view, id)


def reveal(view: View) -> Response:
    """Show a job with its payload, and write that to the audit log."""
    queue, id = view.id_field("queue"), view.id_field("id")
    view.record("jobs reveal", queue=queue, id=shown_id(id))
    return _page(view, queue, id, is_revealed=True)


def edit(view: View) -> Response:
    """Show the form to edit a dead letter, which reveals its payload."""
    queue, id = view.id_field("queue"), view.id_field("id")
    entry = _dead(view, queue, id)
    if isinstance(entry, Response):
        return entry
    if (why := why_not_editable(entry)) is not None:
        return _back(view, queue, id, why)
    view.record("jobs reveal", queue=queue, id=shown_id(id))
    call = _call(entry)
    call["kwargs"].pop(ENCRYPTED, None)  # put back by edited()
    return _edit_form(view, entry, json_text(without_tokens(call)))


def replay_edited(view: View) -> Response:
    """Send the edited job and delete its dead letter; for the first of several such forms only."""
    with _sending_edited:
        return _replay_edited(view)


def _replay_edited(view: View) -> Response:
    queue, id = view.id_field("queue"), view.id_field("id")
    entry = _dead(view, queue, id)
    if isinstance(entry, Response):
        return entry
    text = view.field("call")
    try:
        message = edited(view.broker, entry, text)
        view.broker.enqueue(message)
    except (NotEditable, FormrelayError) as error:
        return _edit_form(view, entry, text, problem=str(error))
    count = view.broker.inspector.delete_dead([id], queue=queue)
    view.record("jobs edit", count=count, queue=queue, id=shown_id(id))
    text = "The edited job is on its queue, and the dead letter is deleted."
    if not count:
        text = "The edited job is on its queue. Somebody else replayed or deleted the dead letter."
    return view.redirect(
        "job",
        queue=shown_id(queue),
        id=shown_id(message.message_id),
        flash=text,
        kind="done" if count else "problem",
    )


def act(view: View) -> Response:
    """Run a job now, cancel, replay or delete it."""
    queue, id = view.id_field("queue"), view.id_field("id")
    inspector = view.broker.inspector
    action, done = view.field("do"), 0
    names = {
        "run-now": ("jobs run-now", "Due now: the next free worker takes it."),
        "cancel": ("jobs cancel", "Cancelled: the job is deleted."),
        "replay": ("dlq replay", "Back on its queue, with all attempts again."),
        "delete": ("dlq delete", "The dead letter is deleted."),
    }
    if action not in names:
        raise view.not_found(f"There is no action {action}.")
    try:
        match action:
            case "run-now":
                done = int(inspector.run_now(queue, id))
            case "cancel":
                done = int(inspector.cancel(queue, id))
            case "replay":
                done = inspector.replay([id], queue=queue)
            case "delete":
                done = inspector.delete_dead([id], queue=queue)
    except NotAvailable as error:
        return _back(view, queue, id, str(error))
    name, text = names[action]
    if not done:
        return _back(view, queue, id, "Nothing changed: the job has left this state.")
    view.record(name, count=done, queue=queue, id=shown_id(id))
    if action in ("cancel", "delete"):
        state = State.DEAD if action == "delete" else view.field("state", State.WAITING)
        return view.redirect("queue", name=shown_id(queue), state=str(state), flash=text)
    return _back(view, queue, id, text, kind="done")


def _in_any_queue(view: View, id: str) -> Response:
    try:
        found = view.broker.inspector.find(id)
        why_not = "No queue has such a job: it is done, cancelled or deleted."
    except NotAvailable:
        found, why_not = None, _NOT_DEAD
    if found is None:
        return _gone(view, None, id, why_not)
    return view.redirect("job", queue=shown_id(found.queue), id=shown_id(found.id))


def _gone(view: View, queue: str | None, id: str, why: str) -> Response:
    return view.render(
        "job_gone.html",
        title="Job",
        status=200 if view.is_refresh else 404,  # browsers complain about a refresh with 404
        queue=queue,
        id=id,
        text=why,
        caused=_caused(view, id),
        now=view.now,
    )


def _caused(view: View, id: str, entry: Entry | None = None) -> CausedJobs | None:
    """Find the jobs that a job caused; None for a refresh, which leaves their list as it is."""
    if view.is_refresh:
        return None
    sent_at = None if entry is None else entry.message.message_timestamp / 1000
    return find_caused(view.broker.inspector, id, sent_at=sent_at)


def _page(view: View, queue: str, id: str, *, is_revealed: bool = False) -> Response:
    try:
        entry = view.broker.inspector.find(id, queue)
        why_not = "There is no such job on the queue: it is done, cancelled or deleted."
    except NotAvailable:
        entry = None
        why_not = _NOT_DEAD
    if entry is None:
        return _gone(view, queue, id, why_not)
    payload, attempts = _call(entry), attempts_of(entry)
    return view.render(
        "job.html",
        title=shown_id(id),
        entry=entry,
        now=view.now,
        failure=entry.failure,
        is_dead=entry.state is State.DEAD,
        attempts=attempts,
        attempts_note=_missing_attempts(attempts),
        outcome_names=_OUTCOMES,
        payload=json_text(without_tokens(payload) if is_revealed else masked(payload)),
        is_revealed=is_revealed,
        why_not_editable=why_not_editable(entry),
        cause=cause_in(entry),
        caused=_caused(view, id, entry),
        follow_ups=_follow_ups(entry),
        progress=progress_json(entry, view.broker),
        batch_size=_batch_size(entry),
    )


def _edit_form(view: View, entry: Entry, text: str, problem: str | None = None) -> Response:
    return view.render(
        "job_edit.html",
        title="Edit and replay",
        status=200 if problem is None else 422,
        entry=entry,
        text=text,
        problem=problem,
    )


def _dead(view: View, queue: str, id: str) -> Entry | Response:
    found = view.broker.inspector.dead_letter(queue, id)
    if found is None:
        return _back(view, queue, id, "It is no longer a dead letter.")
    return found


def _back(view: View, queue: str, id: str, text: str, *, kind: Kind = "problem") -> Response:
    return view.redirect("job", queue=shown_id(queue), id=shown_id(id), flash=text, kind=kind)


def _call(entry: Entry) -> dict[str, Any]:
    return {"args": list(entry.message.args), "kwargs": dict(entry.message.kwargs)}


def _missing_attempts(attempts: Sequence[PastAttempt]) -> str:
    """Say which attempts are not in the table."""
    if attempts and attempts[0].attempt > 1:
        return "earlier attempts are in the log: search it for the id"
    return ""


def _batch_size(entry: Entry) -> int | None:
    parts = entry.message.kwargs.get(BATCH)
    return len(parts) if isinstance(parts, list) else None


def _follow_ups(entry: Entry) -> list[FollowUpMessage]:
    found = []
    for option, when in _FOLLOW_UPS.items():
        target = entry.message.options.get(option)
        if isinstance(target, str):
            found.append(FollowUpMessage(when, target))
        elif isinstance(target, dict) and isinstance(target.get("actor_name"), str):
            queue, id = target.get("queue_name"), target.get("message_id")
            found.append(FollowUpMessage(when, target["actor_name"], queue, id))
    return found


ROUTES = (
    Route("/job", "job", show),
    Route("/job/reveal", "job.reveal", reveal, method="POST"),
    Route("/job/act", "job.act", act, method="POST"),
    Route("/job/edit", "job.edit", edit, method="POST"),
    Route("/job/replay-edited", "job.replay_edited", replay_edited, method="POST"),
)
