"""Converts survey answers to jobs, with the same ids on every run."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any
from uuid import UUID, uuid5

from .mailbox import GREYLISTING
from .spreadsheet import CONNECTION, KEY, SPREADSHEET, TAB

#: Forms whose endpoint works, fails twice before it works, and always fails.
STEADY, FLAKY, BROKEN = "anes96", "anes96-flaky", "anes96-broken"

#: Domain of the addresses, which are made up: the survey has none.
_DOMAIN = "survey.example"

_NAMESPACE = UUID("5b1c6f0e-8f0a-5a3e-9d55-6d1c2f0b9a96")
# Fixed, because an event's time is part of its row's key in ClickHouse.
_FIRST = datetime(1996, 9, 3, 6, tzinfo=UTC)
_INTERVAL = timedelta(minutes=1)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A filled-in form as jobs, each ``{"payload": …, "metadata": …}``.

    Attributes:
        address: e-mail address of the person; None if the form has none.
    """

    id: str
    form_id: str
    submission: Json
    events: tuple[Json, ...]
    address: str | None = None

    @property
    def autoresponse(self) -> Json | None:
        """The e-mail to the person, as a job."""
        if self.address is None:
            return None
        payload = {
            "to": [self.address],
            "subject": "Thank you for your answers",
            "template": "autoresponse",
            "data": {
                "title": "Thank you",
                "message": "We have your answers:",
                "answers": self.submission["payload"]["answers"],
            },
            "kind": "autoresponse",
        }
        return {"payload": payload, "metadata": self.submission["metadata"]}

    @property
    def row(self) -> Json:
        """The row of the spreadsheet, as a job."""
        payload = {
            "spreadsheetId": SPREADSHEET,
            "range": TAB,
            "answers": {KEY: self.id, **self.submission["payload"]["answers"]},
            "rowKey": KEY,
            "connectionId": CONNECTION,
        }
        return {"payload": payload, "metadata": self.submission["metadata"]}


def read_rows(limit: int | None = None) -> list[dict[str, str]]:
    """Return the rows of the survey in the package, each by column."""
    file = resources.files("formrelay.examples.data") / "anes96.csv"
    rows = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    return rows[:limit]


def answers(rows: Iterable[Mapping[str, str]]) -> list[Answer]:
    """Convert each row to a submission and the events of filling in the form."""
    rows = list(rows)
    return [_answer(index, form_of(index, len(rows)), row) for index, row in enumerate(rows)]


def form_of(index: int, total: int) -> str:
    """Return the form id of a row: up to 10 rows for BROKEN, up to 20 for FLAKY.

    These rows come first, so that their retries run while the others are delivered.
    """
    broken, flaky = min(10, total // 6), min(20, total // 3)
    if index < broken:
        return BROKEN
    return FLAKY if index < broken + flaky else STEADY


def per_form(all_answers: Iterable[Answer]) -> dict[str, int]:
    """Return the number of answers of each form, including forms without answers."""
    counted = Counter(answer.form_id for answer in all_answers)
    return {form_id: counted[form_id] for form_id in (STEADY, FLAKY, BROKEN)}


def _address(index: int) -> str | None:
    """The address of two of three persons; one of ten is in the domain that greylists."""
    if index % 3 == 2:
        return None
    return f"person-{index}@{GREYLISTING if index % 10 == 1 else _DOMAIN}"


def _answer(index: int, form_id: str, row: Mapping[str, str]) -> Answer:
    submission_id = str(uuid5(_NAMESPACE, f"submission/{form_id}/{index}"))
    values = {name: _value(text) for name, text in row.items()}
    address = _address(index)
    opened = _FIRST + index * _INTERVAL
    submitted = opened + timedelta(seconds=2 * (len(values) + 1))
    metadata = {"formId": form_id, "submissionId": submission_id}

    def event(number: int, kind: str, properties: Json) -> Json:
        payload = {
            "eventId": str(uuid5(_NAMESPACE, f"event/{submission_id}/{number}")),
            "type": kind,
            "formId": form_id,
            "submissionId": submission_id,
            "sessionId": str(uuid5(_NAMESPACE, f"session/{submission_id}")),
            "occurredAt": (opened + timedelta(seconds=2 * number)).isoformat(),
            "properties": properties,
        }
        return {"payload": payload, "metadata": metadata}

    submission = {
        "submissionId": submission_id,
        "formId": form_id,
        "status": "completed",
        # Not among the events: analytics need no addresses.
        "answers": values if address is None else values | {"email": address},
        "submittedAt": submitted.isoformat(),
    }
    answered = [
        event(number, "field_answered", {"field": name, "value": value})
        for number, (name, value) in enumerate(values.items(), 1)
    ]
    return Answer(
        id=submission_id,
        form_id=form_id,
        submission={"payload": submission, "metadata": metadata},
        events=(
            event(0, "form_viewed", {}),
            *answered,
            event(len(values) + 1, "form_submitted", {"fields": len(values)}),
        ),
        address=address,
    )


def _value(text: str) -> str | int | float:
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number
