"""``formrelay erase``: delete the stored data of a person."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from ...brokers import get_broker
from ...config import get_settings
from ...core.errors import FormrelayError, InvalidJob
from ..audit import Audited, audited
from ..erase.run import IN_FLIGHT, Erasure, Place, known_places
from ..erase.subject import Subject, check_id
from ..erase.unreachable import not_reached
from ..output import print_json, print_table, progress_bar, say, say_error
from ..worker.boot import NOT_FINE
from .confirm import YesOption, can_ask, confirm
from .dlq_changes import stoppable
from .options import (
    DryRunOption,
    JsonOption,
    note_hidden_queues,
    open_inspector,
    parse_duration,
)

SubmissionOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Everything about the submission with this id.")
]
FormOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Everything about the form with this id.")
]
EmailOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Everything with this e-mail address, in any case and at any place of a payload. "
        "'-' reads it from standard input, so that no list of processes shows it.",
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option(
        "--keep-suppression", help="Keep the address on the suppression list: it gets no e-mail."
    ),
]
WaitOption = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="DURATION",
        help="Wait for jobs in flight that are about the person, like 10m. Default: count them.",
    ),
]

_TITLES = {
    "waiting": "waiting jobs",
    "scheduled": "scheduled jobs",
    "dead": "dead letters",
    "in_flight": "jobs in flight",
    "kept_webhooks": "delivered webhooks",
    "results": "results of tasks",
    "idempotency": "results by idempotency key",
    "journals": "journals of e-mails",
    "suppressions": "suppressions",
    "delivery_log": "delivery log (ClickHouse)",
}


def erase(
    submission: SubmissionOption = None,
    form: FormOption = None,
    email: EmailOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = None,
    keep_suppression: KeepOption = False,
    json: JsonOption = False,
) -> None:
    """Delete a person from queues, dead letters and the shared store.

    Looks at each message once. Safe beside running workers; Ctrl-C stops after
    the current step, and the same command goes on. Asks on a terminal.
    Exits with 1 if something about the person is known to be left.

    Example: formrelay erase --submission sub_123 --dry-run
    """
    subject = _subject(submission, form, email)
    inspector, broker = open_inspector(), get_broker()
    note_hidden_queues(inspector)
    if not dry_run and not yes and can_ask():
        found = _run(Erasure(broker, subject, dry_run=True, keep_suppression=keep_suppression))
        _print_places(found)
        confirm(f"Delete {found.erased:,} messages and entries ({subject.shown})", yes=yes)
    erasure = Erasure(
        broker, subject, dry_run=dry_run, keep_suppression=keep_suppression, wait=wait or 0.0
    )
    if dry_run:
        _run(erasure)
    else:
        with audited("erase", subject.words) as entry:
            _run(erasure, entry)
        erasure.compact()
    left = list(not_reached(broker, get_settings(), subject))
    if json:
        print_json(_as_json(erasure, left))
    else:
        _print_places(erasure)
        _print_left(erasure, left)
    if not dry_run and not erasure.is_complete:
        raise typer.Exit(NOT_FINE)


def _subject(submission: str | None, form: str | None, email: str | None) -> Subject:
    given = [each for each in (submission, form, email) if each is not None]
    if len(given) != 1:
        raise typer.BadParameter(
            "expected exactly one of --submission, --form and --email, got "
            f"{len(given) or 'none'}; run the command once for each"
        )
    try:
        if email is not None:
            return Subject.of_email(_typed() if email == "-" else email)
        return check_id("form", form) if form is not None else check_id("submission", given[0])
    except InvalidJob as error:
        raise typer.BadParameter(str(error)) from None


def _typed() -> str:
    """The address on standard input."""
    return sys.stdin.readline().strip()


def _run(erasure: Erasure, entry: Audited | None = None) -> Erasure:
    """Run an erasure with a progress bar; Ctrl-C stops it between two steps."""
    with stoppable() as should_stop, _bar(erasure) as show:

        def progress(looked_at: int, erased: int) -> None:
            show(looked_at)
            if entry is not None:
                entry.progress(erased)

        erasure.progress, erasure.should_stop = progress, should_stop
        erasure.run()
    if entry is not None:
        entry.count = erasure.erased
        if not erasure.is_complete:
            entry.outcome = "stopped" if erasure.is_stopped else "incomplete"
    if erasure.is_stopped:
        say_error("stopped; run the same command again to continue")
    return erasure


@contextmanager
def _bar(erasure: Erasure) -> Iterator[Any]:
    inspector, total = erasure.broker.inspector, 0
    if can_ask():
        with suppress(FormrelayError):
            counts = inspector.counts_of(inspector.queues())
            total = sum(each.waiting + (each.scheduled or 0) + each.dead for each in counts)
    with progress_bar("looked at", total or None) as show:
        yield show


def _print_places(erasure: Erasure) -> None:
    places = [erasure.places[name] for name in known_places() if name in erasure.places]
    rows = [_row(place) for place in places]
    verb = "found" if erasure.dry_run else "erased"
    print_table("Erase", ["place", "looked at", verb, "in part", "note"], rows, empty="no places")


def _row(place: Place) -> tuple[Any, ...]:
    return (
        _TITLES.get(place.name, place.name),
        place.looked_at,
        place.found,
        place.parts,
        place.note or None,
    )


def _print_left(erasure: Erasure, left: list[str]) -> None:
    if erasure.dry_run:
        say(f"would be erased: {erasure.erased:,}")
    else:
        say(f"erased: {erasure.erased:,}")
    in_flight = erasure.places.get(IN_FLIGHT)
    if in_flight is not None and in_flight.found:
        say_error(f"in flight, not erased: {in_flight.found:,}")
    say_error("not reached by this command:")
    for line in left:
        say_error(f"  {line}")


def _as_json(erasure: Erasure, left: list[str]) -> dict[str, Any]:
    subject = erasure.subject
    about = {"digest": subject.digest} if subject.kind == "email" else {"id": subject.value}
    return {
        "subject": {"kind": subject.kind, **about},
        "dry_run": erasure.dry_run,
        "erased": erasure.erased,
        "complete": erasure.is_complete,
        "stopped": erasure.is_stopped,
        "places": [
            {
                "place": place.name,
                "looked_at": place.looked_at,
                "erased": place.found,
                "in_part": place.parts,
                "complete": place.is_complete,
                "note": place.note or None,
            }
            for name in known_places()
            if (place := erasure.places.get(name)) is not None
        ],
        "not_reached": left,
    }
