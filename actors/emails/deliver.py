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
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event

import orjson

from ...brokers import get_broker
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError, NotNow, SinkPermanent, SinkTransient, describe
from ...sinks.smtp.address import Mailbox, each_once, normal, parse_mailbox
from ...sinks.smtp.message import write
from ...sinks.smtp.replies import Reply, UnknownOutcome
from ...state.idempotency import Running
from ...state.journal import Outcome, Run, job_key
from ..model import Job
from .compose import compose, message_id
from .events import notes_of, send_events
from .resources import EmailParts, email_parts
from .schema import EmailJob
from .suppress import suppress_bounced

logger = logging.getLogger("formrelay.emails")

_STORE_AWAY = timedelta(seconds=10)
#: How long the outcomes of an e-mail that was sent are kept in this process, if the store is away.
_SETTLE_FOR = timedelta(seconds=60)
_CLAIMED = timedelta(seconds=5)
_THROTTLED_FOR = timedelta(minutes=5)
_QUOTA_FOR = timedelta(hours=1)
#: How long nothing is sent after the server closed the transaction because it is busy.
_BUSY_FOR = timedelta(minutes=1)
#: Time from the start of an attempt to the end of the e-mail.
_UNTIL_DOT = timedelta(seconds=240)
#: End of the stored text of a recipient that was refused because of its address or mailbox.
_ADDRESS = " address"
#: The account has reached a limit, though the code is permanent (Google, Microsoft).
_QUOTAS = frozenset({"5.4.5", "5.1.90", *(f"5.2.{number}" for number in range(251, 256))})
#: The note of an e-mail whose outcome stayed unknown: "1" until it is replayed.
_GAVE_UP = "gave_up"


def mail_key(job: Job[EmailJob], queue: str) -> str:
    """The name of an e-mail: the same for each attempt of its job, and when that is replayed.

    It contains a digest of the payload, because ids may repeat: publishers count from 1 again.
    """
    payload = job.payload
    content = orjson.dumps(payload.wire(), option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    return job_key(queue, f"{payload.id or job.message_id}\n{digest}")


def recipients_of(payload: EmailJob) -> list[Mailbox]:
    """The recipients of ``to``, ``cc`` and ``bcc``, each address once."""
    return each_once(map(parse_mailbox, [*payload.to, *payload.cc, *payload.bcc]))


def deliver(job: Job[EmailJob], recipients: Sequence[Mailbox], key: str) -> None:
    """Send the e-mail of a job to the recipients that do not have it yet.

    Raises:
        NotNow: another worker sends it, a limit is reached, or the store is away.
        SinkTransient: some recipients are tried again.
        SinkPermanent: some recipients were refused, not because of their addresses.
        InvalidJob: the e-mail cannot be made.
        SinkUnavailable, SinkUnready: no e-mail can be sent now.
    """
    parts = email_parts()
    addresses = [each.address for each in recipients]
    with _store_needed(parts):
        run = parts.journal.begin(key, addresses, notes=notes_of(job))
    if isinstance(run, Running):
        raise NotNow("another worker sends this e-mail", after=min(run.ends_in, _CLAIMED))
    parts.renewal.add(run)
    try:
        _Sending(job, recipients, key, run, parts).run()
    finally:
        parts.renewal.remove(run)
        with suppress(BrokerError):  # otherwise the claim expires
            parts.journal.end(run)


@contextmanager
def _store_needed(parts: EmailParts) -> Iterator[None]:
    """Defer the job if the shared store fails, and fetch no other: nothing is sent without it."""
    try:
        yield
    except BrokerError as error:
        parts.throttle.pause(_STORE_AWAY)
        raise NotNow(f"the shared store failed: {describe(error)}", after=_STORE_AWAY) from None


@dataclass(eq=False, slots=True)
class _Sending:
    """An attempt to send an e-mail."""

    job: Job[EmailJob]
    recipients: Sequence[Mailbox]
    key: str
    claim: Run
    parts: EmailParts
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    suppressed: dict[str, str] = field(default_factory=dict)
    last: Reply | None = None
    is_over_quota: bool = False
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
            is_unknown = outcome.state == "unknown"
            if outcome.state in ("accepted", "refused"):
                continue
            if is_unknown and not self._is_replayed and outcome.unknowns > self.parts.resends:
                continue
            found.append(each)
        return found

    @property
    def _is_replayed(self) -> bool:
        """Whether the job was dead-lettered because of an unknown outcome, and is tried again."""
        return self.claim.record.notes.get(_GAVE_UP) == "1"

    @property
    def _first_at(self) -> datetime:
        """When the first attempt began: not when the job was sent, which may be weeks ago."""
        return self.claim.record.began_at or datetime.now(UTC)

    def _without_suppressed(self, pending: Iterable[Mailbox]) -> list[Mailbox]:
        """Leave out recipients to whom nothing may be sent."""
        pending = list(pending)
        by_normal = {normal(each.address): each for each in pending}
        with _store_needed(self.parts):
            for address, entry in self.parts.suppressions.find(by_normal).items():
                self.suppressed[by_normal[address].address] = str(entry.reason)
            if self.job.payload.kind == "autoresponse":
                self._limit_autoresponses(pending)
        return [each for each in pending if each.address not in self.suppressed]

    def _limit_autoresponses(self, pending: Iterable[Mailbox]) -> None:
        for each in pending:
            if each.is_automatic:
                self.suppressed[each.address] = "automatic"
            elif each.address not in self.suppressed and not self.parts.may_autorespond(
                each, self.key
            ):
                self.suppressed[each.address] = "autoresponse_limit"

    # -- sending it ------------------------------------------------------------------------

    def _send(self, pending: Sequence[Mailbox]) -> None:
        email = compose(self.job, self.key, self._first_at, self.parts)
        data = write(email)
        if get_broker().is_stopping:
            raise NotNow("the worker is stopping", after=timedelta(0))
        with _store_needed(self.parts):
            self.parts.take_limits(pending, f"{self.key}\n{self.job.attempt}")
        addresses = [each.address for each in pending]
        is_automatic = self.job.payload.kind == "autoresponse"
        try:
            replies: Sequence[Reply | None] = self.parts.pool.send(
                # RFC 3834: an automatic response must not be answered, not even by a bounce.
                "" if is_automatic and self.parts.null_sender else email.sender.address,
                addresses,
                data,
                smtputf8=email.needs_smtputf8,
                envid=email.id,
                before_dot=self._mark,
            )
        except UnknownOutcome as error:
            replies = error.replies
            logger.warning(
                "the connection was lost before the last answer",
                extra={"message_id": self.job.message_id, "error_message": str(error)},
            )
        self._settle(dict(zip(addresses, replies, strict=True)))
        self._learn(pending, replies)
        # The server works: a deferred recipient alone would not tell the circuit breaker.
        self.parts.throttle.note(None)

    def _mark(self, recipients: Sequence[str]) -> None:
        if get_broker().is_stopping:  # a stopping worker is killed while it waits for the reply
            raise NotNow("the worker is stopping", after=timedelta(0))
        if SYSTEM_CLOCK.monotonic() - self.started_at > _UNTIL_DOT.total_seconds():
            # The actor's time limit would end while the server's last answer is waited for.
            raise SinkTransient(f"the server took more than {_UNTIL_DOT.total_seconds():.0f} s")
        with _store_needed(self.parts):
            if self._is_replayed:
                self.parts.journal.note(self.claim, {_GAVE_UP: "0"})
            self.parts.journal.sending(self.claim, recipients)

    def _settle(self, replies: dict[str, Reply | None]) -> None:
        """Store the outcomes. The store gets a minute: who has the e-mail must not be forgotten."""
        new = {address: _outcome(reply) for address, reply in replies.items()}
        give_up_at = SYSTEM_CLOCK.monotonic() + _SETTLE_FOR.total_seconds()
        while True:
            try:
                self.parts.journal.settle(self.claim, new)
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
        for address, one in new.items():
            count = unknowns[address] + (one.state == "unknown")
            self.outcomes[address] = Outcome(one.state, one.text, one.at, count)

    def _learn(self, pending: Sequence[Mailbox], replies: Sequence[Reply | None]) -> None:
        """Use the replies for the limits and for suppressions."""
        for mailbox, reply in zip(pending, replies, strict=True):
            if reply is None or reply.kind == "accepted":
                continue
            self.last = reply
            try:
                if reply.status in _QUOTAS:
                    self.is_over_quota = True
                    self.parts.close_account(_QUOTA_FOR)
                elif reply.is_throttled and (reply.code == 421 or reply.step != "rcpt"):
                    self.parts.close_account(_BUSY_FOR)
                elif reply.is_throttled:
                    self.parts.close_domain(mailbox, _THROTTLED_FOR)
                elif reply.is_address_bad or reply.is_full:
                    status = reply.status or ("5.2.2" if reply.is_full else "5.1.1")
                    id = message_id(self.key)
                    stores = self.parts.suppressions, self.parts.limits
                    suppress_bounced(*stores, mailbox, status, id)
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
        states = [*self.outcomes.values()]
        gave_up = [each for each in states if each.state == "unknown" and self._is_final(each)]
        again = [
            each
            for address, each in self.outcomes.items()
            if each.state in ("deferred", "unknown", "waiting")
            and each not in gave_up
            and address not in self.suppressed
        ]
        if again and self.is_over_quota:
            self.parts.wait_for_account(_QUOTA_FOR)
        if again:
            raise SinkTransient(f"{self._told()}; {len(again)} will be tried again")
        if gave_up:
            with _store_needed(self.parts):
                self.parts.journal.note(self.claim, {_GAVE_UP: "1"})
            raise SinkPermanent(
                f"{self._told()}; the connection was lost before the server's last answer, so "
                f"{len(gave_up)} may have it: replay the job to send it to them again"
            )
        if any(each.state == "refused" and not each.text.endswith(_ADDRESS) for each in states):
            raise SinkPermanent(self._told())

    def _is_final(self, outcome: Outcome) -> bool:
        return outcome.unknowns > self.parts.resends

    def _told(self) -> str:
        """Describe the outcomes, without addresses."""
        accepted = sum(each.state == "accepted" for each in self.outcomes.values())
        text = f"{accepted} of {len(self.recipients)} recipients accepted"
        return text if self.last is None else f"{text}; last reply: {self.last}"


def _outcome(reply: Reply | None) -> Outcome:
    if reply is None:
        return Outcome("unknown")
    text = f"{reply.code} {reply.status}".strip()
    if reply.status in _QUOTAS:
        return Outcome("deferred", text)
    is_bounce = reply.is_address_bad or reply.is_full
    return Outcome(reply.kind, text + (_ADDRESS if is_bounce else ""))
