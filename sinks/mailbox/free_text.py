"""Bounces without a machine-readable part, and automatic replies."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from email.message import Message

from .delivery_status import status_of
from .model import Ignored, Reading, Report, ReportedRecipient
from .parts import addresses_of, ids_of, returned_headers, text_of

#: The reason of a bounce is looked for in this number of characters after an address.
_NEAR = 600

_AUTOMATIC_HEADERS = ("x-autoreply", "x-autorespond", "x-auto-response-from", "x-ms-oof")
_PRECEDENCES = frozenset({"auto_reply", "auto-reply", "bulk", "junk", "list"})
_SUBJECT = re.compile(
    r"\s*(?:auto(?:matic|mated)?[- ]?(?:reply|response)|auto:|out of (?:the )?office|vacation|"
    r"automatische antwort|abwesenheit|r\u00e9ponse automatique|respuesta autom\u00e1tica)",
    re.IGNORECASE,
)

# flufl.bounce logs each detector that it tries, and text of the message when a detector fails.
logging.getLogger("flufl.bounce").setLevel(logging.CRITICAL + 1)


def read_free_text(message: Message, parts: Sequence[Message]) -> Reading | None:
    """Read a bounce in the words of a server; None if the message is not a bounce.

    Raises:
        Exception: any, because flufl.bounce fails in many ways on odd input.
    """
    from flufl.bounce import all_failures

    temporary, permanent = all_failures(message)
    found = [each.decode("utf-8", "replace") for each in permanent]
    if not found:
        return Ignored("delayed") if temporary else None
    text, headers = text_of(parts), returned_headers(parts)
    recipients = [
        ReportedRecipient(addresses, _status_near(text, each, found))
        for each in sorted(found)
        if (addresses := addresses_of(each))
    ]
    if not recipients:
        return None
    return Report("bounce", ids_of([], [headers.get("message-id", "")], text), recipients)


def read_automatic(message: Message, parts: Sequence[Message]) -> Reading | None:
    """Recognise an automatic reply or a read receipt; None for other messages."""
    submitted = str(message.get("auto-submitted", "no")).strip().lower()
    precedence = str(message.get("precedence", "")).strip().lower()
    is_automatic = (
        not submitted.startswith("no")
        or any(name in message for name in _AUTOMATIC_HEADERS)
        or precedence in _PRECEDENCES
        or _SUBJECT.match(str(message.get("subject", ""))) is not None
        or any(part.get_content_type() == "message/disposition-notification" for part in parts)
    )
    return Ignored("automatic reply") if is_automatic else None


def _status_near(text: str, address: str, others: Sequence[str]) -> str:
    """The status that follows an address, before the next address."""
    lowered = text.lower()
    start = lowered.find(address.lower())
    if start < 0:
        return ""
    start += len(address)
    ends = (lowered.find(each.lower(), start) for each in others if each != address)
    end = min((each for each in ends if each >= 0), default=len(text))
    near = text[start : min(end, start + _NEAR)]
    return status_of(re.split(r"\n-{2,} ?|\nMessage-ID:|\nReceived:", near)[0].lstrip(">:;, \n"))
