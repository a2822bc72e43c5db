"""Sends the e-mail of a job to the recipients that do not have it yet.

One SMTP transaction reaches all recipients, and each has an outcome of its own. The journal keeps
the outcomes over all attempts of the job (state/journal.py), so that nobody gets the e-mail again:

1. ``begin`` takes the claim on the e-mail and reads the outcomes of earlier attempts.
2. ``sending`` marks the recipients right before the end of the e-mail is sent. If the worker dies
   after it, the next attempt finds the outcome ``unknown``.
3. ``settle`` stores the outcomes right after the server's reply, before anything else is done.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event

from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import (
    BrokerError,
    DeferReason,
    NotNow,
    SinkError,
    SinkPermanent,
    SinkTransient,
    describe,
)
from ...sinks.smtp.address import Mailbox, normal
from ...sinks.smtp.message import Email, write
from ...sinks.smtp.replies import Reply, UnknownOutcome
from ...state.idempotency import Running
from ...state.journal import RecipientOutcome, Run
from ..model import Job
from .compose import compose, sender_of
from .effects import ADDRESS, BUSY_FOR, QUOTA_FOR, QUOTAS, apply_replies, outcome_of
from .events import name_journal, notes_of, send_events
from .resources import EmailResources, email_resources
from .schema import EmailJob, email_key, recipients_of

logger = logging.getLogger("formrelay.emails")

_STORE_AWAY, _CLAIMED = timedelta(seconds=10), timedelta(seconds=5)
#: How long this process retries to store the outcomes of a sent e-mail if the store is away.
_SETTLE_FOR = timedelta(seconds=60)
#: Maximum time from the start of an attempt to the end of the e-mail.
_UNTIL_DOT = timedelta(seconds=240)
#: The note of an e-mail whose outcome stayed unknown: "1" until it is replayed.
_GAVE_UP = "gave_up"
#: The note with the digest of the bytes that were sent last.
_CONTENT = "content"
#: The note with the number of times in a row that the server closed the connection (421).
_CLOSED = "closed"
#: Number of such answers in a row after which an attempt is used. Otherwise an e-mail at which the
#: server always closes the connection would block all other e-mails for ever.
_MAX_CLOSED = 10


def deliver(job: Job[EmailJob]) -> None:
    """Send the e-mail of a job to the recipients that do not have it yet.

    Raises:
        NotNow: another worker sends it, a limit is reached, or the store is away.
        SinkTransient: some recipients are tried again.
        SinkPermanent: some recipients were refused, not because of their addresses.
        InvalidJob: the e-mail cannot be made.
        SinkUnavailable, SinkUnready: no e-mail can be sent now.
    """
    resources, key = email_resources(), email_key(job, get_settings().emails.queue)
    recipients = recipients_of(job.payload)
    addresses = [each.address for each in recipients]
    with _store_needed(resources):
        run = resources.journal.begin(key, addresses, notes=notes_of(job))
        name_journal(resources.journal, run, job)
    if isinstance(run, Running):
        raise NotNow(
            "another worker sends this e-mail",
            after=min(run.ends_in, _CLAIMED),
            reason=DeferReason.RUNNING_ELSEWHERE,
        )
    resources.renewal.add(run)
    try:
        _Sending(job, recipients, key, run, resources).run()
    finally:
        resources.renewal.remove(run)
        with suppress(BrokerError):  # otherwise the claim expires
            resources.journal.end(run)


def _stopping() -> NotNow:
    return NotNow("the worker is stopping", after=timedelta(0), reason=DeferReason.STOPPING)


@contextmanager
def _store_needed(resources: EmailResources) -> Iterator[None]:
    """Defer the job if the shared store fails, and fetch no other: nothing is sent without it."""
    try:
        yield
    except BrokerError as error:
        resources.throttle.pause(_STORE_AWAY)
        raise NotNow(
            f"the shared store failed: {describe(error)}",
            after=_STORE_AWAY,
            reason=DeferReason.STORE_UNAVAILABLE,
        ) from None


@dataclass(eq=False, slots=True)
class _Sending:
    """An attempt to send an e-mail."""

    job: Job[EmailJob]
    recipients: Sequence[Mailbox]
    key: str
    claim: Run
    resources: EmailResources
    outcomes: dict[str, RecipientOutcome] = field(default_factory=dict)
    suppressed: dict[str, str] = field(default_factory=dict)
    last: Reply | None = None
    is_over_quota: bool = False
    #: The server closed the connection and accepted nothing.
    is_closed: bool = False
    #: Digest of the bytes of this attempt.
    content: str = ""
    #: Recipients that are marked as ``sending``.
    marked: Sequence[str] = ()
    #: Recipients that may have the e-mail, and would get other bytes now.
    withheld: frozenset[str] = frozenset()
    started_at: float = field(default_factory=SYSTEM_CLOCK.monotonic)

    def run(self) -> None:
        self.outcomes = dict(self.claim.record.recipients)
        try:
            pending = self._without_suppressed(self._pending())
            if pending:
                self._send(pending)
        finally:
            self._note_in_log()
        send_events(self.job, self._first_at, self.key, self.outcomes, self.suppressed)
        self._raise_outcome()

    # -- who gets it -----------------------------------------------------------------------

    def _pending(self) -> list[Mailbox]:
        """The recipients that are tried now."""
        found = []
        for each in self.recipients:
            outcome = self.outcomes[each.address]
            is_final = outcome.unknowns > self.resources.resends and not self._is_replayed
            if outcome.state == "unknown" and is_final:
                continue
            if outcome.state == "accepted" or self._stays_refused(outcome):
                continue
            found.append(each)
        return found

    def _stays_refused(self, outcome: RecipientOutcome) -> bool:
        # A replay begins with attempt 1 again: somebody may have removed the cause.
        is_retried = self.job.attempt > 1 or self.job.is_redelivered
        is_final = outcome.text.endswith(ADDRESS) or is_retried
        return outcome.state == "refused" and is_final

    @property
    def _is_replayed(self) -> bool:
        """Whether the job was dead-lettered because of an unknown outcome, and replayed."""
        # Redelivered: the worker died between the note and the dead letter.
        return self.claim.record.notes.get(_GAVE_UP) == "1" and not self.job.is_redelivered

    @property
    def _first_at(self) -> datetime:
        """When the first attempt began: not when the job was sent, which may be weeks ago."""
        return self.claim.record.began_at or datetime.now(UTC)

    def _without_suppressed(self, pending: Iterable[Mailbox]) -> list[Mailbox]:
        """Leave out recipients to whom nothing may be sent."""
        pending = list(pending)
        by_normal = {normal(each.address): each for each in pending}
        with _store_needed(self.resources):
            for address, entry in self.resources.suppressions.find(by_normal).items():
                self.suppressed[by_normal[address].address] = str(entry.reason)
            if self.job.payload.kind == "autoresponse":
                self._limit_autoresponses(pending)
        return [each for each in pending if each.address not in self.suppressed]

    def _limit_autoresponses(self, pending: Iterable[Mailbox]) -> None:
        own = {
            normal(sender_of(self.job.payload, self.resources).address),
            *self.resources.allowed_from,
        }
        for each in pending:
            # An answer to an address of ours might be answered by another form: a loop.
            if each.is_automatic or normal(each.address) in own:
                self.suppressed[each.address] = "automatic"
            elif each.address not in self.suppressed and not self.resources.may_autorespond(
                each, self.key
            ):
                self.suppressed[each.address] = "autoresponse_limit"

    # -- sending it ------------------------------------------------------------------------

    def _send(self, pending: Sequence[Mailbox]) -> None:
        email = compose(self.job, self.key, self._first_at, self.resources)
        data = write(email)
        pending = self._without_doubtful(pending, data)
        if not pending:
            return
        if get_broker().is_stopping:
            raise _stopping()
        with _store_needed(self.resources):
            self.resources.take_limits(pending, f"{self.key}\n{self._last_at}")
        addresses = [each.address for each in pending]
        replies = self._transmit(email, addresses, data)
        self._settle(dict(zip(addresses, replies, strict=True)))
        self._apply_replies(pending, replies)
        # The server works: a deferred recipient alone would not tell the circuit breaker.
        self.resources.throttle.note(None)

    @property
    def _last_at(self) -> str:
        """When the server last decided: names an attempt to send, however often it is deferred."""
        times = [each.at.isoformat() for each in self.outcomes.values() if each.at is not None]
        return max(times, default="")

    def _without_doubtful(self, pending: Sequence[Mailbox], data: bytes) -> list[Mailbox]:
        """Leave out recipients that may have the e-mail already, if its bytes have changed.

        They would have two different e-mails. A replay sends the e-mail as it is now.
        """
        self.content = hashlib.blake2b(data, digest_size=12).hexdigest()
        notes = self.claim.record.notes
        if notes.get(_CONTENT) in (None, self.content) or self._is_replayed:
            return [*pending]
        logger.warning(
            "an e-mail has changed since its last attempt: its template, an attachment or a package"
            " is another",
            extra={"message_id": self.job.message_id, "template": self.job.payload.template},
        )
        found = [each for each in pending if self.outcomes[each.address].state != "unknown"]
        self.withheld = frozenset(each.address for each in pending if each not in found)
        return found

    def _transmit(
        self, email: Email, addresses: Sequence[str], data: bytes
    ) -> Sequence[Reply | None]:
        """Send the e-mail; returns the replies, None for an unknown outcome."""
        is_automatic = self.job.payload.kind == "autoresponse"
        try:
            with _store_needed(self.resources):  # for tokens, and the number of connections
                return self.resources.pool.send(
                    # RFC 3834: an automatic response must not be answered, not even by a bounce.
                    "" if is_automatic and self.resources.null_sender else email.sender.address,
                    addresses,
                    data,
                    smtputf8=email.needs_smtputf8,
                    envid=email.id,
                    before_dot=self._mark,
                )
        except UnknownOutcome as error:
            logger.warning(
                "the connection was lost before the last answer",
                extra={"message_id": self.job.message_id, "error_message": str(error)},
            )
            return error.replies
        except (SinkError, NotNow):
            self._unmark()
            raise

    def _mark(self, recipients: Sequence[str]) -> None:
        if get_broker().is_stopping:  # a stopping worker is killed while it waits for the reply
            raise _stopping()
        if SYSTEM_CLOCK.monotonic() - self.started_at > _UNTIL_DOT.total_seconds():
            # The actor's time limit would end while the server's last answer is waited for.
            raise SinkTransient(f"the server took more than {_UNTIL_DOT.total_seconds():.0f} s")
        # Withheld recipients may have the earlier bytes, so their digest stays.
        notes = {} if self.withheld else {_CONTENT: self.content}
        if self._is_replayed:
            notes[_GAVE_UP] = "0"
        with _store_needed(self.resources):
            self.marked = recipients
            self.resources.journal.sending(self.claim, recipients, notes=notes)

    def _unmark(self) -> None:
        """Remove the marks of an e-mail that certainly nobody got.

        The server answered the end of the e-mail with 421, and then no connection could be made.
        Left alone, the marks would become unknown outcomes.
        """
        if self.marked:
            outcomes = dict.fromkeys(self.marked, RecipientOutcome("deferred", "421"))
            with suppress(BrokerError):
                self.resources.journal.settle(self.claim, outcomes)

    def _settle(self, replies: dict[str, Reply | None]) -> None:
        """Store the outcomes; retry for a minute, so that nobody gets the e-mail again."""
        new = {address: outcome_of(reply) for address, reply in replies.items()}
        give_up_at = SYSTEM_CLOCK.monotonic() + _SETTLE_FOR.total_seconds()
        while True:
            try:
                self.resources.journal.settle(self.claim, new)
                break
            except BrokerError as error:
                if SYSTEM_CLOCK.monotonic() > give_up_at or get_broker().is_stopping:
                    logger.error(
                        "could not store who got an e-mail",
                        extra={"message_id": self.job.message_id, "error_message": str(error)},
                    )
                    break
                Event().wait(1)
        unknowns = {address: self.outcomes[address].unknowns for address in new}
        for address, outcome in new.items():
            count = unknowns[address] + (outcome.state == "unknown")
            self.outcomes[address] = replace(outcome, unknowns=count)

    def _apply_replies(self, pending: Sequence[Mailbox], replies: Sequence[Reply | None]) -> None:
        """Close limits and suppress addresses; a failed store does not fail the attempt."""
        known = [reply for reply in replies if reply is not None and reply.kind != "accepted"]
        # The reply for which the job waits, where there is one.
        self.last = max(known, key=lambda reply: reply.kind == "deferred", default=None)
        self.is_over_quota = any(reply.status in QUOTAS for reply in known)
        self.is_closed = all(reply is not None and reply.code == 421 for reply in replies)
        try:
            pairs = list(zip(pending, replies, strict=True))
            apply_replies(self.resources, self.key, self.claim, self._first_at, pairs)
        except BrokerError as error:
            extra = {"error_message": describe(error)}
            logger.warning("could not store a limit or suppression", extra=extra)

    # -- the outcome of the job ----------------------------------------------------------

    def _note_in_log(self) -> None:
        counts = Counter(outcome.state for outcome in self.outcomes.values())
        self.job.fields.update(
            recipients=len(self.recipients),
            accepted=counts["accepted"],
            deferred=counts["deferred"],
            refused=counts["refused"],
            suppressed=len(self.suppressed),
            template=self.job.payload.template,
        )

    def _raise_outcome(self) -> None:
        states = self.outcomes.items()
        gave_up = {address for address, each in states if self._is_given_up(address, each)}
        again = [
            address
            for address, each in states
            if each.state in ("deferred", "unknown", "waiting")
            and address not in gave_up
            and address not in self.suppressed
        ]
        if again and self.is_over_quota:
            self.resources.wait_for_account(QUOTA_FOR)
        if again and self.is_closed:
            self._wait_for_server()
        if again:
            raise SinkTransient(f"{self._summary()}; {len(again)} will be tried again")
        if gave_up:
            with _store_needed(self.resources):
                self.resources.journal.note(self.claim, {_GAVE_UP: "1"})
            changed = ", and it has changed since" if self.withheld else ""
            raise SinkPermanent(
                f"{self._summary()}; the connection was lost before the server's last answer, so "
                f"{len(gave_up)} may have it{changed}: replay the job to send it to them "
                "again"
            )
        if any(each.state == "refused" and not each.text.endswith(ADDRESS) for _, each in states):
            raise SinkPermanent(self._summary())

    def _is_given_up(self, address: str, outcome: RecipientOutcome) -> bool:
        """Whether a recipient may have the e-mail, and does not get it again."""
        is_final = outcome.unknowns > self.resources.resends or address in self.withheld
        return outcome.state == "unknown" and is_final

    def _wait_for_server(self) -> None:
        """Wait without an attempt after 421, if that was not the answer too often.

        Raises:
            NotNow: the job is to be deferred.
        """
        count = int(self.claim.record.notes.get(_CLOSED, "0")) + 1
        with _store_needed(self.resources):
            self.resources.journal.note(self.claim, {_CLOSED: str(count % _MAX_CLOSED)})
        if count < _MAX_CLOSED:
            self.resources.wait_for_account(BUSY_FOR)

    def _summary(self) -> str:
        """Describe the outcomes, without addresses."""
        accepted = sum(each.state == "accepted" for each in self.outcomes.values())
        text = f"{accepted} of {len(self.recipients)} recipients accepted"
        return text if self.last is None else f"{text}; last reply: {self.last}"
