"""The journal of jobs with several recipients: what happened to each recipient, over all attempts.

It answers two questions after a crash: who has the e-mail already, and for whom nobody knows. A
worker marks recipients as ``sending`` in the last moment before the other side may accept them. If
it dies, the next attempt finds the marks as ``unknown``.

Only the worker that has the job's claim may mark recipients. A broker may deliver a job again while
a worker that seemed to be dead still runs it; then one of the two gets the claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import uuid4

from ..core.errors import DeferReason, NotNow
from .digests import digest
from .idempotency import Running

State = Literal["waiting", "sending", "unknown", "deferred", "refused", "accepted"]

#: How long a journal is kept after the last change.
KEEP = timedelta(days=30)
#: How long the claim of a worker lasts, unless it is renewed.
LOCK = timedelta(seconds=30)
#: Maximum length of a text and of a note.
MAX_TEXT = 500
_RETRY = timedelta(seconds=5)
_NO_NOTES: Mapping[str, str] = {}


class ClaimLost(NotNow):
    """Another worker has taken over the job: this worker must not send."""

    reason = DeferReason.RUNNING_ELSEWHERE

    def __init__(self, message: str | None = None, *, after: timedelta = _RETRY) -> None:
        super().__init__(message, after=after)


@dataclass(frozen=True, slots=True)
class RecipientOutcome:
    """What happened to a recipient.

    Attributes:
        state: "waiting" (not tried), "sending" (a worker is at it), "unknown" (it may have been
            accepted), "deferred", "refused" or "accepted".
        text: the reply's code and enhanced status, such as ``550 5.1.1``. Not the reply's text,
            which may quote the address.
        at: when this was stored, UTC; set by the store.
        unknowns: how often the outcome was unknown; set by the store.
    """

    state: State
    text: str = ""
    at: datetime | None = None
    unknowns: int = 0


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """The journal of a job.

    Attributes:
        recipients: the outcomes of the recipients that were asked for; others than those of the
            job are absent.
        counts: number of recipients in each state, of all recipients of the job.
        notes: notes by name.
        attempts: number of attempts that began.
        began_at: when the first attempt began, UTC, in milliseconds.
    """

    recipients: Mapping[str, RecipientOutcome]
    counts: Mapping[State, int]
    notes: Mapping[str, str]
    attempts: int
    began_at: datetime | None = None


@dataclass(eq=False, slots=True)
class Run:
    """An attempt that has the claim on its job. ``LockRenewal`` renews it, like a ``Claim``.

    Attributes:
        store: the journal.
        key: digest of the job.
        owner: random id of this attempt.
        lock: how long the claim lasts, unless it is renewed.
        record: the journal when the attempt began.
    """

    store: Journal
    key: str
    owner: str
    lock: timedelta
    record: JournalRecord = field(repr=False)


class Journal(Protocol):
    """Journals by job. Each call is atomic. Recipients are stored as digests.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def begin(
        self,
        job: str,
        recipients: Iterable[str],
        *,
        lock: timedelta = LOCK,
        notes: Mapping[str, str] = _NO_NOTES,
    ) -> Run | Running:
        """Claim a job; returns Running if another attempt has the claim.

        Recipients that an earlier attempt left as "sending" become "unknown".

        Args:
            job: see :func:`job_key`.
            recipients: all recipients of the job; upper and lower case are the same.
            notes: notes to add, unless the journal has notes with these names.
        """

    def renew(self, key: str, owner: str, lock: timedelta) -> bool:
        """Extend the claim to ``lock`` from now; False if the owner has lost it."""

    def sending(
        self, run: Run, recipients: Iterable[str], *, notes: Mapping[str, str] = _NO_NOTES
    ) -> None:
        """Mark recipients, right before the other side may accept them, and add notes.

        Raises:
            ClaimLost: another worker has the claim, or a recipient is accepted already. Nothing
                was marked, and nothing may be sent.
        """

    def settle(
        self, run: Run, outcomes: Mapping[str, RecipientOutcome], *, end: bool = False
    ) -> bool:
        """Store outcomes, and remove the marks of these recipients.

        "accepted" is stored in any case and never replaced. Other outcomes are stored only with
        the claim. Each change to "unknown" counts up ``unknowns``.

        Args:
            end: give back the claim in the same step.

        Returns:
            False if another worker has taken over.
        """

    def note(self, run: Run, notes: Mapping[str, str]) -> None:
        """Add notes, such as the digest of what is sent.

        Raises:
            ClaimLost: another worker has the claim.
        """

    def end(self, run: Run) -> None:
        """Give back the claim, if this attempt has it. Its marks become "unknown"."""

    def read(self, job: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        """Return the journal of a job; None if there is none, or no longer."""

    def find(self, id: str, recipients: Iterable[str] = ()) -> JournalRecord | None:
        """Return the journal with an id (:func:`journal_id`), as ``read`` does."""

    def mark(self, id: str, notes: Mapping[str, str]) -> None:
        """Add notes without a claim, such as reports about an e-mail; nothing if it has ended."""

    def name(self, run: Run, other: str) -> None:
        """Give the job's journal another id, which the other side uses, for :meth:`named`.

        Needs no claim. It is kept as long as a journal from now.
        """

    def named(self, other: str) -> str | None:
        """The id of the journal that :meth:`name` gave another id; None if there is none."""


def job_key(queue: str, message_id: str) -> str:
    """Name a job for its journal: a job that is sent again or replayed has the same name."""
    return f"{queue}\n{message_id}"


def journal_id(job: str) -> str:
    """The id of a job's journal, 32 hexadecimal digits, by which reports find it."""
    return digest(job)


def new_run(store: Journal, key: str, lock: timedelta) -> Run:
    """Make an attempt with an empty record."""
    return Run(store, key, uuid4().hex, lock, JournalRecord({}, {}, {}, 0))


def names_of(key: str, recipients: Iterable[str]) -> dict[str, str]:
    """The digest of each recipient in lower case, different in each job."""
    return {recipient: digest(key, recipient.lower()) for recipient in recipients}


def is_text(text: str) -> bool:
    """Whether a text can be a note."""
    return len(text) <= MAX_TEXT and text.isprintable()


def check_text(text: str) -> str:
    """Check a text or note.

    Raises:
        ValueError: it is too long or has more than one line.
    """
    if not is_text(text):
        raise ValueError(f"expected one line of at most {MAX_TEXT} characters")
    return text


def check_notes(notes: Mapping[str, str]) -> dict[str, str]:
    """Check notes, as :func:`check_text` does."""
    return {name: check_text(note) for name, note in notes.items()}


def make_record(
    stored: Mapping[str, RecipientOutcome],
    names: Mapping[str, str],
    notes: Mapping[str, str],
    attempts: int,
    began_at: datetime | None,
) -> JournalRecord:
    """Make a record of outcomes by digest.

    Args:
        names: the digests of the recipients that were asked for.
    """
    found = {recipient: stored[name] for recipient, name in names.items() if name in stored}
    counts = Counter(each.state for each in stored.values())
    return JournalRecord(found, counts, notes, attempts, began_at)
