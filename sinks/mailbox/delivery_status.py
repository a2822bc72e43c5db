"""Bounces with a machine-readable part: delivery status notifications (RFC 3464, RFC 6533)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from email.message import Message

from ..smtp.replies import Reply, make_reply
from .model import Ignored, Reading, Report, ReportedRecipient
from .parts import addresses_of, blocks_of, ids_of, returned_headers

_TYPES = frozenset({"message/delivery-status", "message/global-delivery-status"})
_STATUS = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")
_CODE = re.compile(r"(?<![\d.])([45]\d\d)(?=[ \t-])")
_GENERIC = ("", "0.0", "5.0")
#: Actions of a recipient that did not get the e-mail. opensmtpd writes "error".
_FAILED = ("fail", "error")


def read_delivery_status(parts: Sequence[Message]) -> Reading | None:
    """Read a bounce; None if the message is not a bounce."""
    found = [part for part in parts if part.get_content_type() in _TYPES]
    if not found:
        return None
    blocks = [block for part in found for block in blocks_of(part)]
    recipients: list[ReportedRecipient] = []
    actions: set[str] = set()
    for block in blocks:
        if not {"final-recipient", "original-recipient", "action"} & block.keys():
            continue
        action, status = block.get("action", "").lower(), _status(block)
        if not action and status.startswith("5"):
            action = "failed"
        actions.add(action)
        addresses = addresses_of(
            *(block.get(f"{name}-recipient", "") for name in ("original", "final", "x-actual"))
        )
        if action.startswith(_FAILED) and addresses:
            recipients.append(ReportedRecipient(addresses, status))
    if not recipients:
        if any(action.startswith(_FAILED) for action in actions) or not actions:
            return None  # names no recipient: read_free_text may find the address in the text
        is_delayed = any(action.startswith("delayed") for action in actions)
        return Ignored("delayed" if is_delayed else "no failure")
    headers = returned_headers(parts)
    ids = ids_of(
        (block.get("original-envelope-id", "") for block in blocks),
        [
            *(block.get("x-original-message-id", "") for block in blocks),
            headers.get("message-id", ""),
        ],
    )
    return Report("bounce", ids, recipients)


def status_of(text: str, fallback: str = "") -> str:
    """The enhanced status of a server's reply; without it, the status that its words mean.

    Args:
        text: ``550 5.1.1 No such user``, perhaps with other text around.
        fallback: the status if the text says nothing.
    """
    reply = _reply(text)
    if reply.status and reply.status[2:] not in _GENERIC:
        return reply.status
    if reply.is_address_bad:
        return "5.1.1"
    if reply.is_full:
        return "5.2.2"
    return fallback


def _status(block: Mapping[str, str]) -> str:
    """The status of a recipient. Exim writes 5.0.0, and the status of the other server after it."""
    found = _STATUS.search(block.get("status", ""))
    status = found[0] if found else ""
    if status[2:] not in _GENERIC:
        return status
    diagnostic = block.get("diagnostic-code", "")
    return status_of(diagnostic.partition(";")[2] or diagnostic, status)


def _reply(text: str) -> Reply:
    """The reply of a server as it is quoted in a text."""
    text = text[:2000]
    code = _CODE.search(text)
    if code is None:
        status = _STATUS.search(text)
        number = 450 if status and status[1] == "4" else 550
        start = status.start() if status else 0
    else:
        number, start = int(code[1]), code.end()
    # A reply of several lines repeats the code: "550-5.1.1 No such user 550 5.1.1 See ...".
    lines = re.split(rf"(?:^|[\s-]){number}[- ]", text[start:])
    return make_reply(
        number,
        [line.strip(" \t-").encode() for line in lines],
        step="rcpt",
        is_about_recipient=True,
    )
