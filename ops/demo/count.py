"""The counts at the end of the demo, read from the services that got the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from ...actors.events.routing import EVENTS as TABLE
from ...actors.resources import clickhouse
from ...actors.webhooks.delivery_log import TABLE as ATTEMPTS
from ...core.errors import FormrelayError
from ...core.failure import Failure
from .client import submissions
from .environment import RETRY_DELAYS
from .mailbox import GREYLISTING, read_emails
from .receiver import FLAKY_FAILURES
from .report import Number
from .scenario import Sent
from .services import Services
from .survey import BROKEN, FLAKY, Answer, per_form

T = TypeVar("T")

#: Maximum wait for the last events to reach ClickHouse.
_DRAIN_SECONDS = 15.0


@dataclass(slots=True)
class Counts:
    """Counts by the API, the receiver, the SMTP server, the spreadsheet, the broker, ClickHouse.

    None if not available.

    Attributes:
        emails: number of persons whose autoresponse the SMTP server accepted.
        repeated: number of e-mails that it accepted beyond one for each person.
        greylisted: number of persons whose autoresponse it accepted after it was deferred.
        sheet: number of answers that have a row in the spreadsheet.
        sheet_repeated: number of rows beyond one for each answer.
    """

    saved: int | None = None
    delivered: int | None = None
    retried: int | None = None
    dead: int | None = None
    rows: int | None = None
    attempts: int | None = None
    emails: int | None = None
    repeated: int | None = None
    greylisted: int | None = None
    sheet: int | None = None
    sheet_repeated: int | None = None
    lost_calls: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    first_dead: Failure | None = None
    problems: list[str] = field(default_factory=list)

    def read(self, query: Callable[[], T]) -> T | None:
        """Return the result of a query; add its error to ``problems`` and return None."""
        try:
            return query()
        except FormrelayError as error:
            self.problems.append(str(error))
            return None


def count(services: Services, answers: Sequence[Answer]) -> Counts:
    """Collect all counts. Stops the workers first, because they lock the ClickHouse folder."""
    found = Counts()
    found.saved = found.read(lambda: _saved_as_sent(services, answers))
    stats: dict[str, int] = found.read(lambda: services.receiver.get("/stats")) or {}
    found.delivered, found.retried = stats.get("delivered"), stats.get("retried")
    count_autoresponses(found, services.mail, answers)
    _count_sheet(found, services)
    found.dead = found.read(lambda: _dead(services))
    found.first_dead = found.read(lambda: _first_dead(services))
    # A worker sends its last delivery attempts, and events of e-mails, to the queue of events
    # when it stops.
    services.children.stop(only="worker submissions")
    found.read(lambda: _drained(services))
    services.children.stop(only="worker")
    found.attempts = found.read(_attempts)
    for kind, rows, events in found.read(_rows) or ():
        found.by_type[kind] = events
        found.rows = (found.rows or 0) + rows
        if rows != events:
            found.problems.append(f"ClickHouse has {rows} rows for {events} {kind} events")
    return found


def numbers(found: Counts, sent: Sent, answers: Sequence[Answer]) -> list[Number]:
    """Return the rows of the result table: expected and actual counts."""
    forms = per_form(answers)
    total, events = len(answers), sum(len(answer.events) for answer in answers)
    addresses = _addresses(answers)
    return [
        Number("sent", "Submissions sent", total, sent.submissions, "as save_submission jobs"),
        Number("saved", "Submissions saved once", total, found.saved, "read back from the API"),
        Number("events_sent", "Events sent", events, sent.events, "as record_events jobs"),
        Number(
            "rows",
            "Rows in ClickHouse",
            events + len(addresses),
            found.rows,
            "with one for each e-mail",
        ),
        Number(
            "delivered",
            "Webhooks delivered",
            total - forms[BROKEN],
            found.delivered,
            "signature valid: standardwebhooks",
        ),
        Number(
            "retried",
            "  of these retried",
            forms[FLAKY],
            found.retried,
            f"/flaky fails {FLAKY_FAILURES} times first",
        ),
        *_email_numbers(found, sent, addresses),
        *_sheet_numbers(found, sent, total),
        Number("dead_lettered", "Dead-lettered", forms[BROKEN], found.dead, "/broken always fails"),
        Number(
            "attempts",
            "Attempts in the delivery log",
            total + forms[FLAKY] * FLAKY_FAILURES + forms[BROKEN] * RETRY_DELAYS.count(","),
            found.attempts,
            "webhook_deliveries, by ClickHouse",
        ),
    ]


def _email_numbers(found: Counts, sent: Sent, addresses: AbstractSet[str]) -> list[Number]:
    late = sum(address.endswith(f"@{GREYLISTING}") for address in addresses)
    total = len(addresses)
    return [
        Number("emails_sent", "Autoresponses sent", total, sent.emails, "as send_email jobs"),
        Number("emails", "E-mails accepted", total, found.emails, "TLS and login: aiosmtpd"),
        Number("greylisted", "  of these retried", late, found.greylisted, "451 at first"),
        Number("emails_repeated", "  accepted again", 0, found.repeated, "nobody gets two"),
    ]


def _sheet_numbers(found: Counts, sent: Sent, total: int) -> list[Number]:
    lost = f"{found.lost_calls} answers of calls were lost"
    return [
        Number("sheet_sent", "Rows sent", total, sent.rows, "as update_sheet jobs"),
        Number("sheet", "Rows in the spreadsheet", total, found.sheet, lost),
        Number("sheet_repeated", "  written again", 0, found.sheet_repeated, "none is there twice"),
    ]


def _count_sheet(found: Counts, services: Services) -> None:
    """Count the rows in the spreadsheet, which counts them by their keys."""
    stats: dict[str, int] = found.read(lambda: services.sheet.get("/stats")) or {}
    if stats:
        found.sheet = stats["rows"] - stats["repeated"]
        found.sheet_repeated, found.lost_calls = stats["repeated"], stats["lost"]


def _addresses(answers: Sequence[Answer]) -> set[str]:
    return {answer.address for answer in answers if answer.address is not None}


def count_autoresponses(found: Counts, mail: Path, answers: Sequence[Answer]) -> None:
    """Count the e-mails in the folder of the SMTP server."""
    read = read_emails(mail)
    wanted = _addresses(answers)
    found.emails = len(wanted & read.accepted.keys())
    found.repeated = read.accepted.total() - len(read.accepted)
    found.greylisted = len(read.deferred)
    if strangers := len(read.accepted.keys() - wanted):
        found.problems.append(f"{strangers} e-mails were accepted for persons without an answer")


def _saved_as_sent(services: Services, answers: Sequence[Answer]) -> int:
    """Count the submissions in the API whose content equals what was sent."""
    sent = {answer.id: answer.submission["payload"] for answer in answers}
    saved = (row for form_id in per_form(answers) for row in submissions(services.api, form_id))
    return sum(_same(sent.get(row["id"], {}), row) for row in saved)


def _same(sent: dict[str, Any], saved: dict[str, Any]) -> bool:
    return all(sent.get(key) == saved.get(key) for key in ("formId", "status", "answers"))


def _dead(services: Services) -> int:
    return sum(services.broker.counts(queue).dead for queue in services.queues)


def _first_dead(services: Services) -> Failure | None:
    letters = services.broker.dead_letters(services.queues.webhooks, limit=1)
    return next((letter.failure for letter in letters), None)


def _drained(services: Services) -> None:
    """Wait until the queue of events is empty."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while services.unsettled(services.queues.events) and time.monotonic() < deadline:
        Event().wait(0.05)


def _attempts() -> int:
    ((found,),) = _query(f"SELECT count() FROM {ATTEMPTS}_once")  # noqa: S608 - ours
    return int(found)


def _rows() -> list[tuple[str, int, int]]:
    """Return type, number of rows and number of distinct events, in order of occurrence."""
    found = _query(
        f"SELECT type, count(), uniqExact(event_id) FROM {TABLE} FINAL"  # noqa: S608 - ours
        " GROUP BY type ORDER BY min(occurred_at)"
    )
    return [(str(kind), int(rows), int(events)) for kind, rows, events in found]


def _query(sql: str) -> list[tuple[Any, ...]]:
    client = clickhouse()
    try:
        return client.query(sql)
    finally:
        client.close()
