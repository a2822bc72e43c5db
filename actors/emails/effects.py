"""Applies the server's replies to an e-mail: closes limits, suppresses addresses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ...sinks.smtp.address import Mailbox
from ...sinks.smtp.replies import Reply
from ...state.journal import RecipientOutcome, Run
from .compose import email_id
from .resources import EmailResources
from .suppress import note_sent, suppress_bounced

#: The account has reached a limit, though the code is permanent (Google, Microsoft).
QUOTAS = frozenset({"5.4.5", "5.1.90", *(f"5.2.{number}" for number in range(251, 256))})
QUOTA_FOR = timedelta(hours=1)
#: How long nothing is sent after the server closed the transaction because it is busy.
BUSY_FOR = timedelta(minutes=1)
_THROTTLED_FOR = timedelta(minutes=5)
#: End of the stored text of a recipient that was refused because of its address or mailbox.
ADDRESS = " address"


def outcome_of(reply: Reply | None) -> RecipientOutcome:
    """The outcome of a recipient; a reply that is None is unknown."""
    if reply is None:
        return RecipientOutcome("unknown")
    text = f"{reply.code} {reply.status}".strip()
    if reply.status in QUOTAS:
        return RecipientOutcome("deferred", text)
    is_bounce = reply.is_address_bad or reply.is_full
    return RecipientOutcome(reply.kind, text + (ADDRESS if is_bounce else ""))


def apply_replies(
    resources: EmailResources,
    key: str,
    run: Run,
    first_at: datetime,
    replies: Sequence[tuple[Mailbox, Reply | None]],
) -> None:
    """Close limits and suppress addresses after the replies to an e-mail.

    Args:
        key: names the e-mail.
        run: the attempt.
        first_at: when its first attempt began.
        replies: the reply to each recipient; None for an unknown outcome.

    Raises:
        BrokerError: the store failed.
    """
    for id in {reply.given_id for _, reply in replies if reply is not None} - {None}:
        resources.journal.name(run, str(id))  # reports quote it
    decided = [mailbox for mailbox, reply in replies if reply and reply.kind != "deferred"]
    note_sent(resources.bounce_rates, decided, first_at)
    for mailbox, reply in replies:
        if reply is None or reply.kind == "accepted":
            continue
        if reply.status in QUOTAS:
            resources.close_account(QUOTA_FOR)
        elif reply.is_throttled and (reply.code == 421 or reply.step != "rcpt"):
            resources.close_account(BUSY_FOR)
        elif reply.is_throttled:
            resources.close_domain(mailbox, _THROTTLED_FOR)
        elif reply.is_address_bad or reply.is_full:
            status = reply.status or ("5.2.2" if reply.is_full else "5.1.1")
            stores = resources.suppressions, resources.bounce_rates
            suppress_bounced(*stores, mailbox, status, email_id(key), first_at)
