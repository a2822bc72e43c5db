"""The e-mails that the demo's SMTP server has accepted, as files in a folder."""

from __future__ import annotations

import email.parser
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

#: A domain whose recipients are deferred at their first attempt.
GREYLISTING = "greylisting.example"
_TO, _DEFERRED = "Delivered-To", "X-Was-Deferred"


@dataclass(frozen=True, slots=True)
class StoredEmail:
    """An e-mail as it was accepted.

    Attributes:
        recipient: address of the envelope.
        was_deferred: whether the recipient was deferred before.
    """

    recipient: str
    was_deferred: bool
    content: bytes

    def write(self, folder: Path, number: int) -> None:
        """Write the e-mail to a file that appears as a whole."""
        added = (
            f"{_TO}: {self.recipient}\r\n{_DEFERRED}: {'yes' if self.was_deferred else 'no'}\r\n"
        )
        partial = folder / f"{number}.partial"
        partial.write_bytes(added.encode() + self.content)
        partial.rename(folder / f"{number}.eml")


@dataclass(frozen=True, slots=True)
class Emails:
    """The e-mails that the folder has.

    Attributes:
        accepted: number of e-mails by recipient.
        deferred: recipients that were deferred before.
    """

    accepted: Counter[str]
    deferred: frozenset[str]


def count_emails(folder: Path) -> int:
    """Number of e-mails in a folder."""
    return sum(1 for _ in folder.glob("*.eml"))


def read_emails(folder: Path) -> Emails:
    """Read the headers of all e-mails in a folder."""
    accepted: Counter[str] = Counter()
    deferred = set()
    parser = email.parser.BytesHeaderParser()
    for path in folder.glob("*.eml"):
        with path.open("rb") as file:
            headers = parser.parse(file)
        recipient = headers[_TO]
        accepted[recipient] += 1
        if headers[_DEFERRED] == "yes":
            deferred.add(recipient)
    return Emails(accepted, frozenset(deferred))
