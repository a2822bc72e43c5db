"""Suppresses addresses after bounces, but not a whole domain after an outage there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ...sinks.smtp.address import Mailbox, normal
from ...state.bounce_rates import MAX_RECENT, BounceRate, BounceRates
from ...state.suppressions import Suppression, Suppressions, note_bounce, rule_of

logger = logging.getLogger("formrelay.emails")

#: More bounces of missing users than this share of an hour's e-mails to a domain, and than this
#: number, look like an outage there (Gmail, December 2020).
MAX_BOUNCED, MIN_BOUNCES = 0.2, 20


@dataclass(frozen=True, slots=True)
class DomainRate:
    """The bounces of missing users, of the e-mails to a domain that were sent in an hour.

    Attributes:
        hour: ``YYYY-MM-DD HH`` in UTC.
        looks_like_outage: whether further addresses are not suppressed.
    """

    domain: str
    hour: str
    sent: int
    bounced: int
    looks_like_outage: bool


def domain_rates(rates: BounceRates, limit: int) -> list[DomainRate]:
    """Return the domains and hours with bounces; likely outages first."""
    found = []
    for each in rates.recent(MAX_RECENT):
        domain, _, hour = each.group.partition("\n")
        rate = each.rate
        found.append(DomainRate(domain, hour, rate.sent, rate.bounced, looks_like_outage(rate)))
    return sorted(found, key=lambda each: not each.looks_like_outage)[:limit]


def looks_like_outage(rate: BounceRate) -> bool:
    """Whether the share of unknown addresses is so high that the domain probably has an outage."""
    return rate.bounced > MIN_BOUNCES and rate.bounced > MAX_BOUNCED * rate.sent


def note_sent(rates: BounceRates, recipients: Iterable[Mailbox], sent_at: datetime) -> None:
    """Count recipients that the server accepted or refused.

    Args:
        sent_at: when the first attempt began.
    """
    for domain, number in Counter(each.domain for each in recipients).items():
        rates.note_sent(_group(domain, sent_at), number)


def suppress_bounced(
    suppressions: Suppressions,
    rates: BounceRates,
    mailbox: Mailbox,
    status: str,
    event: str,
    sent_at: datetime,
) -> Suppression | None:
    """Suppress an address if its bounce says so; returns the entry, None without one.

    Args:
        event: id of the e-mail: a bounce that is reported again counts once.
        sent_at: when its first attempt began.
    """
    address = normal(mailbox.address)
    if rule_of(status) == "now":
        rate = rates.note_bounced(_group(mailbox.domain, sent_at), f"{event}\n{address}")
        if looks_like_outage(rate):
            logger.error(
                "too many recipients of a domain do not exist: did not suppress one",
                extra={
                    "domain": mailbox.domain,
                    "status": status,
                    "sent": rate.sent,
                    "bounced": rate.bounced,
                },
            )
            return None
    return note_bounce(suppressions, address, status, event)


def _group(domain: str, sent_at: datetime) -> str:
    """The e-mails to a domain that were sent in an hour."""
    return f"{domain.lower()}\n{sent_at.astimezone(UTC):%Y-%m-%d %H}"
