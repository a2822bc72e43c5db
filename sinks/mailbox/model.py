"""The kinds of messages in a mailbox of reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """A recipient in a report.

    Attributes:
        addresses: spellings of its address, the most reliable first; not in the ``repr``.
        status: enhanced status, ``5.1.1``; "" if the report has none.
    """

    addresses: Sequence[str] = field(repr=False)
    status: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A bounce or a complaint.

    Attributes:
        ids: possible ids of the e-mail: its ENVID, or the left part of its Message-ID.
        digest: names the report; the same for each copy of it.
    """

    kind: Literal["bounce", "complaint"]
    ids: Sequence[str]
    recipients: Sequence[ReportedRecipient]
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that needs no action.

    Attributes:
        why: ``automatic reply``, ``delayed``, ``no failure`` or ``no complaint``.
    """

    why: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that formrelay cannot read as a report."""


Reading = Report | Ignored | Unreadable
