"""Programs that send jobs: ``python senders.py NAME ARGUMENTS``."""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

from formrelay.actors import (
    deliver_webhook,
    enqueue_many,
    record_events,
    save_partial,
    save_submission,
    send_email,
    update_sheet,
)


def events(count: str) -> None:
    """Send each event three times in separate messages, in three different orders."""
    begin = datetime(2026, 10, 25, tzinfo=UTC)
    found = [
        {
            "eventId": str(UUID(int=number + 1)),
            "type": f"type-{number % 5}",
            "formId": f"form-{number % 7}",
            "sessionId": f"session-{number // 4}",
            "occurredAt": (begin + timedelta(minutes=number)).isoformat(),
        }
        for number in range(int(count))
    ]
    for turn in range(3):
        enqueue_many(record_events, ({"payload": event} for event in found))
        random.Random(turn).shuffle(found)


def submissions(form: str, count: str) -> None:
    """Send ``count`` submissions of a form."""
    payloads = (
        {
            "submissionId": f"sub-{number}",
            "formId": form,
            "status": "completed",
            "answers": {"number": number},
            "submittedAt": "2026-01-31T09:30:00Z",
        }
        for number in range(int(count))
    )
    enqueue_many(save_submission, ({"payload": payload} for payload in payloads))


def webhooks(url: str, count: str) -> None:
    """Send ``count`` webhooks to 20 endpoints in turn."""
    payloads = (
        {
            "url": f"{url}/{number % 20}",
            "id": f"id_{number}",
            "body": {},
            "secret": "whsec_c2VjcmV0",
        }
        for number in range(int(count))
    )
    enqueue_many(deliver_webhook, ({"payload": payload} for payload in payloads))


def emails(count: str) -> None:
    """Send ``count`` e-mails to a recipient each."""
    emails_to(*(f"user-{number}@one.example" for number in range(int(count))))


def emails_to(*addresses: str) -> None:
    """Send an e-mail to each address."""
    payloads = (
        {
            "to": [address],
            "subject": "Hello",
            "template": "autoresponse",
            "data": {"title": "Thanks", "message": "We have your answer."},
        }
        for address in addresses
    )
    enqueue_many(send_email, ({"payload": payload} for payload in payloads))


def sheets(count: str) -> None:
    """Send ``count`` rows for one spreadsheet."""
    payloads = (
        {
            "spreadsheetId": "book",
            "range": "Answers",
            "answers": {"Number": number, "Text": f"row {number}"},
            "rowKey": "Number",
            "connectionId": "ann",
        }
        for number in range(int(count))
    )
    enqueue_many(update_sheet, ({"payload": payload} for payload in payloads))


def autoresponses(address: str, count: str) -> None:
    """Send ``count`` autoresponses of as many forms to an address."""
    payload = {
        "to": [address],
        "subject": "Hello",
        "template": "autoresponse",
        "data": {"title": "Thanks", "message": "We have your answer."},
        "kind": "autoresponse",
    }
    forms = ({"formId": f"form-{number}"} for number in range(int(count)))
    enqueue_many(send_email, ({"payload": payload, "metadata": form} for form in forms))


def jobs(file: str) -> None:
    """Send the jobs in a file with a kind (submission or partial) and a payload in each line."""
    for kind, actor in {"submission": save_submission, "partial": save_partial}.items():
        with open(file, encoding="utf-8") as lines:
            of_a_kind = (payload for to, payload in map(json.loads, lines) if to == kind)
            enqueue_many(actor, ({"payload": payload} for payload in of_a_kind))


if __name__ == "__main__":
    _, name, *arguments = sys.argv
    programs = (events, submissions, webhooks, emails, emails_to, autoresponses, sheets, jobs)
    {program.__name__: program for program in programs}[name](*arguments)
