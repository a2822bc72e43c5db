"""Complaints of recipients: feedback reports (ARF, RFC 5965)."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message

from .model import Ignored, Reading, Report, ReportedRecipient
from .parts import addresses_of, blocks_of, ids_of, mailboxes_of, returned_headers

_TYPE = "message/feedback-report"
#: Types of feedback after which the recipient wants no e-mail. Other types report signatures, or
#: "not-spam".
_COMPLAINTS = frozenset({"abuse", "fraud", "opt-out", "opt-out-list", "other"})


def read_feedback(parts: Sequence[Message]) -> Reading | None:
    """Read a complaint; None if the message is not a complaint."""
    blocks = [
        block for part in parts if part.get_content_type() == _TYPE for block in blocks_of(part)
    ]
    fields = next((block for block in blocks if "feedback-type" in block), None)
    if fields is None:
        return None
    if fields["feedback-type"].lower() not in _COMPLAINTS:
        return Ignored("no complaint")
    headers = returned_headers(parts)
    ids = ids_of([fields.get("original-envelope-id", "")], [headers.get("message-id", "")])
    addresses = addresses_of(
        fields.get("original-rcpt-to", ""),
        headers.get("x-hmxmroriginalrecipient", ""),  # Microsoft's
    )
    if not addresses:
        # The report names no recipient: it is known only if the e-mail went to a single address.
        receivers = mailboxes_of(f"{headers.get('to', '')}, {headers.get('cc', '')}")
        addresses = receivers if len(receivers) == 1 else []
    recipients = [ReportedRecipient(addresses)] if addresses else []
    return Report("complaint", ids, recipients)
