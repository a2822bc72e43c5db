"""Handles reports about e-mails: suppresses addresses, and sends events.

Anybody can write a report. One counts only if it names an e-mail of the journal and an address to
which that e-mail was sent. Every step can be repeated: a report is marked as handled after
everything else is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ...sinks.mailbox.model import Ignored, Report, Unreadable
from ...sinks.mailbox.reports import read_report
from ...sinks.smtp.address import Mailbox, normal, parse_mailbox
from ...state.bounce_rates import BounceRates
from ...state.journal import Journal, JournalRecord
from ...state.suppressions import Suppression, Suppressions, note_complaint
from .events import send_report_event
from .suppress import suppress_bounced

logger = logging.getLogger("formrelay.emails")

#: What a message was. Repeated: the report was handled before. Unknown: its e-mail or address is
#: not known here. Ignored: nothing needs to be done. Unreadable: not a report.
Handled = Literal["bounces", "complaints", "repeated", "unknown", "ignored", "unreadable"]

_NOTE = "report "
#: Maximum number of reports about an e-mail: the journal keeps a note of each.
_MAX_REPORTS = 300


@dataclass(frozen=True, slots=True)
class ReportHandler:
    """Handles messages of a mailbox for reports."""

    journal: Journal
    suppressions: Suppressions
    rates: BounceRates

    def handle(self, data: bytes) -> Handled:
        """Handle a message, and say what it was. When this returns, everything is stored.

        Raises:
            BrokerError: the store or the broker failed; handle the message again.
        """
        reading = read_report(data)
        if isinstance(reading, Unreadable):
            return "unreadable"
        if isinstance(reading, Ignored):
            return "ignored"
        return self._handle(reading)

    def _handle(self, report: Report) -> Handled:
        addresses = [address for each in report.recipients for address in each.addresses]
        for reported in report.ids:
            id, record = self._find(reported, addresses)
            if record is None:
                continue
            if _NOTE + report.digest in record.notes:
                return "repeated"
            found = list(_recipients(report, record))
            if found and sum(name.startswith(_NOTE) for name in record.notes) < _MAX_REPORTS:
                for mailbox, status in found:
                    self._count(report, id, record, mailbox, status)
                self.journal.mark(id, {_NOTE + report.digest: report.kind})
                return "bounces" if report.kind == "bounce" else "complaints"
        logger.warning(
            "unknown report: no e-mail of the last 30 days was sent to its address",
            extra={"kind": report.kind, "recipients": len(report.recipients)},
        )
        return "unknown"

    def _find(self, id: str, addresses: Sequence[str]) -> tuple[str, JournalRecord | None]:
        """The id and the journal of an e-mail, by its id or by that of the provider."""
        record = self.journal.find(id, addresses)
        if record is None and (ours := self.journal.named(id)) is not None:
            return ours, self.journal.find(ours, addresses)
        return id, record

    def _count(
        self, report: Report, id: str, record: JournalRecord, mailbox: Mailbox, status: str
    ) -> None:
        entry: Suppression | None
        if report.kind == "complaint":
            entry = note_complaint(self.suppressions, normal(mailbox.address))
        else:
            sent_at = record.began_at or datetime.now(UTC)
            entry = suppress_bounced(self.suppressions, self.rates, mailbox, status, id, sent_at)
        kind = "email.bounced" if report.kind == "bounce" else "email.complained"
        send_report_event(record, id, mailbox.address, kind, status)
        logger.info(
            "an e-mail bounced" if report.kind == "bounce" else "a recipient complained",
            extra={
                "message_id": record.notes.get("job"),
                "domain": mailbox.domain,
                "status": status,
                "suppressed": entry is not None,
            },
        )


def _recipients(report: Report, record: JournalRecord) -> Iterator[tuple[Mailbox, str]]:
    """The recipients of a report to whom the e-mail was sent, with their status."""
    for each in report.recipients:
        for address in each.addresses:
            outcome = record.recipients.get(address)
            if outcome is not None and outcome.state != "waiting":
                yield parse_mailbox(address), each.status
                break
