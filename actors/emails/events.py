"""Analytics events about e-mails.

``email.sent``, ``email.bounced``, ``email.complained``, ``email.suppressed``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from ...config import get_settings
from ...core.errors import BrokerError
from ...state.idempotency import Running
from ...state.journal import Journal, JournalRecord, RecipientOutcome, Run, is_text
from ..events import record_events
from ..fanout import Outgoing, fan_out
from ..model import Job
from .schema import EmailJob

logger = logging.getLogger("formrelay.emails")

_NAMESPACE = uuid5(NAMESPACE_URL, "formrelay:emails")
_TYPES = {"accepted": "email.sent", "refused": "email.bounced"}


def send_events(
    job: Job[EmailJob],
    first_at: datetime,
    key: str,
    outcomes: Mapping[str, RecipientOutcome],
    suppressed: Mapping[str, str],
) -> None:
    """Send an event for each recipient whose outcome is final, if events are recorded.

    Events contain domains, but no addresses. They are not worth an e-mail sent twice: if the broker
    fails, they are lost with a warning.

    Args:
        first_at: when the first attempt began. It is the time of all events, because a repeated
            event replaces the former only if id and time are the same.
    """
    if get_settings().clickhouse.url is None:
        return
    found = []
    for address, outcome in outcomes.items():
        why = suppressed.get(address, "")
        kind = "email.suppressed" if why else _TYPES.get(outcome.state)
        if kind is not None:
            event_id = uuid5(_NAMESPACE, f"{key}\n{address}\n{kind}")
            domain, status = address.rpartition("@")[2], why or outcome.text
            properties = {"domain": domain, "status": status}
            found.append(_event(notes_of(job), event_id, kind, first_at, properties))
    try:
        fan_out(Outgoing(record_events, event, {}) for event in found)
    except BrokerError as error:
        logger.warning(
            "could not send the events of an e-mail", extra={"error_message": str(error)}
        )


def notes_of(job: Job[EmailJob]) -> dict[str, str]:
    """What the journal keeps of a job, for the events of reports about its e-mail."""
    found = {
        "form": job.metadata.form_id or "",
        "job": job.message_id,
        "template": job.payload.template,
        "kind": job.payload.kind,
    }
    return {name: text for name, text in found.items() if text and is_text(text)}


def name_journal(journal: Journal, run: Run | Running, job: Job[EmailJob]) -> None:
    """Let the journal be found by the job's id, on the broker that lists dead letters alone.

    Raises:
        BrokerError: the shared store failed.
    """
    settings = get_settings()
    if settings.broker.kind == "rabbitmq" and job.message_id and not isinstance(run, Running):
        journal.name(run, journal_name(job.message_id))


def journal_name(message_id: str, queue: str | None = None) -> str:
    """The name of a job's journal for :func:`name_journal`.

    Args:
        queue: the queue of e-mails; None for the configured queue.
    """
    return f"job\n{queue or get_settings().emails.queue}\n{message_id}"


def send_report_event(record: JournalRecord, id: str, address: str, kind: str, status: str) -> None:
    """Send the event of a report about an e-mail, if events are recorded.

    Args:
        record: the journal of the e-mail, whose id is ``id``.
        kind: type of the event.

    Raises:
        BrokerError: the broker failed.
    """
    if get_settings().clickhouse.url is None:
        return
    event_id = uuid5(_NAMESPACE, f"{id}\n{address}\n{kind}")
    properties = {"domain": address.rpartition("@")[2], "status": status}
    at = record.began_at or datetime.now(UTC)
    fan_out([Outgoing(record_events, _event(record.notes, event_id, kind, at, properties), {})])


def _event(
    notes: Mapping[str, str],
    event_id: UUID,
    kind: str,
    at: datetime,
    properties: dict[str, str],
) -> dict[str, Any]:
    return {
        "eventId": str(event_id),
        "type": kind,
        "formId": notes.get("form", "unknown"),
        "occurredAt": at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "properties": {
            "messageId": notes.get("job", ""),
            "template": notes.get("template", ""),
            "kind": notes.get("kind", ""),
            **properties,
        },
    }
