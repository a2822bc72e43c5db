"""Analytics events about e-mails: ``email.sent``, ``email.bounced``, ``email.suppressed``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError
from ...sinks.smtp.address import Mailbox
from ...state.journal import Outcome
from ..events import record_events
from ..fanout import Outgoing, fan_out
from ..model import Job
from .schema import EmailJob

logger = logging.getLogger("formrelay.emails")

_NAMESPACE = uuid5(NAMESPACE_URL, "formrelay:emails")
_TYPES = {"accepted": "email.sent", "refused": "email.bounced"}


def send_events(
    job: Job[EmailJob],
    key: str,
    recipients: Sequence[Mailbox],
    outcomes: Mapping[str, Outcome],
    suppressed: Mapping[str, str],
) -> None:
    """Send an event for each recipient whose outcome is final, if events are recorded.

    A repeated event has the same id. Events contain domains, but no addresses. They are not worth
    an e-mail sent twice: if the broker fails, they are lost with a warning.
    """
    if get_settings().clickhouse.url is None:
        return
    found = []
    for mailbox in recipients:
        outcome = outcomes[mailbox.address]
        why = suppressed.get(mailbox.address, "")
        kind = "email.suppressed" if why else _TYPES.get(outcome.state)
        if kind is not None:
            found.append(_event(job, key, mailbox, kind, why or outcome.text))
    try:
        fan_out(Outgoing(record_events, event, {}) for event in found)
    except BrokerError as error:
        logger.warning(
            "could not send the events of an e-mail", extra={"error_message": str(error)}
        )


def _event(
    job: Job[EmailJob], key: str, mailbox: Mailbox, kind: str, status: str
) -> dict[str, Any]:
    payload = job.payload
    return {
        "eventId": str(uuid5(_NAMESPACE, f"{key}\n{mailbox.address}\n{kind}")),
        "type": kind,
        "formId": job.metadata.form_id or "unknown",
        "occurredAt": _iso(SYSTEM_CLOCK.time()),
        "properties": {
            "messageId": job.message_id,
            "template": payload.template,
            "kind": payload.kind,
            "domain": mailbox.domain,
            "status": status,
        },
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
