"""The progress of an e-mail, read from its journal: what happened to each recipient."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import iso
from ...sinks.smtp.address import normal
from ...state import make_journal, make_suppressions
from ...state.journal import RecipientOutcome
from ..model import Job
from ..progress import Progress
from .effects import ADDRESS
from .events import journal_name
from .schema import EmailJob, email_key, recipients_of

#: The states of a recipient in the order in which they are told.
_STATES = ("accepted", "refused", "deferred", "unknown", "sending", "suppressed", "waiting")
#: The states of a recipient to whom a later attempt may send.
_UNDECIDED = frozenset({"deferred", "unknown", "waiting"})


def progress_of_email(job: Job[EmailJob]) -> Progress | None:
    """Read the progress of an e-mail. Recipients are named by position and domain.

    Raises:
        BrokerError: the shared store failed.
    """
    state = get_broker().state
    recipients = recipients_of(job.payload)
    addresses = [each.address for each in recipients]
    key = email_key(job, get_settings().emails.queue)
    record = make_journal(state).read(key, addresses)
    if record is None:
        return None
    suppressed = make_suppressions(state).find({normal(address) for address in addresses})
    parts = []
    for position, each in enumerate(recipients, 1):
        outcome = record.recipients.get(each.address, RecipientOutcome("waiting"))
        # The journal does not know them: an address may be suppressed between two attempts.
        is_program = job.payload.kind == "autoresponse" and each.is_automatic
        is_left_out = outcome.state in _UNDECIDED and (
            is_program or normal(each.address) in suppressed
        )
        parts.append(_part(position, each.domain, outcome, is_suppressed=is_left_out))
    found = Counter(part["state"] for part in parts)
    return Progress(
        "recipients",
        {name: found[name] for name in _STATES},
        parts,
        {"attempts": record.attempts},
    )


def progress_of_id(message_id: str) -> Progress | None:
    """Read the progress of an e-mail whose job cannot be read, because RabbitMQ lists none.

    Returns:
        None if no e-mail of the last 30 days has this id, or no attempt has begun.

    Raises:
        BrokerError: the shared store failed.
    """
    journal = make_journal(get_broker().state)
    id = journal.named(journal_name(message_id))
    record = None if id is None else journal.find(id)
    if record is None:
        return None
    found = {str(name): number for name, number in record.counts.items()}
    counts = {name: found.get(name, 0) for name in _STATES if name != "suppressed"}
    return Progress("recipients", counts, notes={"attempts": record.attempts})


def _part(
    position: int, domain: str, outcome: RecipientOutcome, *, is_suppressed: bool
) -> dict[str, Any]:
    return {
        "position": position,
        "domain": domain,
        "state": "suppressed" if is_suppressed else outcome.state,
        "reply": outcome.text.removesuffix(ADDRESS) or None,
        "at": None if outcome.at is None else iso(outcome.at.timestamp()),
    }
