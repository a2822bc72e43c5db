"""Suppresses addresses after bounces, but not a whole domain after an outage there."""

from __future__ import annotations

import logging
from datetime import timedelta

from ...sinks.smtp.address import Mailbox, normal
from ...state.rate_limits import Limit, RateLimits
from ...state.suppressions import Suppression, Suppressions, note_bounce, rule_of

logger = logging.getLogger("formrelay.emails")

#: Maximum number of addresses of a domain that are suppressed as missing in one go. A provider with
#: an outage may say "no such user" for all of its users (Gmail, December 2020).
_BRAKE = Limit(100, timedelta(hours=1))


def suppress_bounced(
    suppressions: Suppressions, limits: RateLimits, mailbox: Mailbox, status: str, event: str
) -> Suppression | None:
    """Suppress an address if its bounce says so; returns the entry, None without one.

    Args:
        event: id of the e-mail: a bounce that is reported again counts once.
    """
    address = normal(mailbox.address)
    if rule_of(status) == "now":
        name = f"email:bounced:{mailbox.domain}"
        if limits.take([(name, _BRAKE)], once=f"{event}\n{address}") is not None:
            logger.error(
                "too many recipients of a domain do not exist: did not suppress one",
                extra={"domain": mailbox.domain, "status": status},
            )
            return None
    return note_bounce(suppressions, address, status, event)
