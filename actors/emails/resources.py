"""What all e-mails of a process share, made from the settings at first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import ConfigError
from ...middleware.lock_renewal import LockRenewal
from ...sinks.http import Egress
from ...sinks.smtp.account import Account, Timeouts, make_tls_context
from ...sinks.smtp.address import Mailbox, normal, parse_mailbox
from ...sinks.smtp.dkim import DkimKey, load_key
from ...sinks.smtp.pool import Pool
from ...state import make_journal, make_rate_limits, make_suppressions
from ...state.journal import Journal
from ...state.rate_limits import Limit, RateLimits
from ...state.suppressions import Suppressions
from ..resources import per_process, smtp_throttle

if TYPE_CHECKING:
    from .attachments import Attachments
    from .render import Templates

_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_ACCOUNT_MINUTE, _ACCOUNT_DAY = "email:account:minute", "email:account:day"
#: The server's time for its last answer. A shorter time makes duplicates.
_DOT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class EmailParts:
    """The parts of the worker.

    Attributes:
        sender: of e-mails that name none.
        allowed_from: addresses in normal form, and domains as ``@example.com``.
        resends: how often an e-mail is sent again after an unknown outcome.
        null_sender: whether autoresponses have no return path.
        minute, day: limits of the account.
        domains: limits by domain.
    """

    sender: Mailbox | None
    allowed_from: frozenset[str]
    templates: Templates
    attachments: Attachments
    pool: Pool
    journal: Journal
    suppressions: Suppressions
    limits: RateLimits
    renewal: LockRenewal
    dkim_key: DkimKey | None
    resends: int
    null_sender: bool
    minute: Limit | None
    day: Limit | None
    domains: Mapping[str, Limit]
    autoresponses: Limit
    pause: Callable[[timedelta], None]

    def take_limits(self, recipients: Sequence[Mailbox]) -> timedelta | None:
        """Count an e-mail to these recipients; returns the wait if a limit is reached."""
        by_domain: dict[str, int] = {}
        for each in recipients:
            by_domain[each.domain] = by_domain.get(each.domain, 0) + 1
        wanted: list[tuple[str, Limit | None]] = [
            (_ACCOUNT_MINUTE, self.minute),
            (_ACCOUNT_DAY, self.day),
        ]
        costs = [1, _clipped(len(recipients), self.day)]
        for domain, number in by_domain.items():
            limit = self.domains.get(domain)
            wanted.append((_domain_key(domain), limit))
            costs.append(_clipped(number, limit))
        return self.limits.take(wanted, costs)

    def close_account(self, after: timedelta) -> None:
        """Send no e-mail for a while, on all workers."""
        self.limits.close_until(_ACCOUNT_MINUTE, after)

    def close_domain(self, mailbox: Mailbox, after: timedelta) -> None:
        """Send no e-mail to a domain for a while, on all workers."""
        self.limits.close_until(_domain_key(mailbox.domain), after)

    def may_autorespond(self, mailbox: Mailbox, key: str) -> bool:
        """Whether a recipient may get an autoresponse. It counts once, not at each attempt.

        Args:
            key: names the e-mail.
        """
        name = f"email:autoresponse:{normal(mailbox.address)}"
        return self.limits.take([(name, self.autoresponses)], once=key) is None


def _domain_key(domain: str) -> str:
    return f"email:domain:{domain}"


def _clipped(cost: int, limit: Limit | None) -> int:
    """A cost that the limit can ever allow."""
    return cost if limit is None else min(cost, limit.capacity)


@per_process
def email_parts() -> EmailParts:
    """The parts of the e-mail worker.

    Raises:
        ConfigError: a setting is missing or wrong, or a package is not installed.
    """
    settings = get_settings()
    section = settings.emails
    try:
        from .attachments import Attachments
        from .render import Templates
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"expected the package {error.name} for the queue of e-mails, got none: "
            "pip install 'formrelay[email]'"
        ) from None
    state = get_broker().state
    return EmailParts(
        sender=None if section.sender is None else parse_mailbox(section.sender),
        allowed_from=frozenset(_normal_sender(each) for each in section.allowed_from),
        templates=Templates(section.templates_folder),
        attachments=Attachments(
            section.attachments_folder, _egress(settings), section.max_attachment_bytes
        ),
        pool=Pool(_account(settings)),
        journal=make_journal(state),
        suppressions=make_suppressions(state),
        limits=make_rate_limits(state),
        renewal=LockRenewal(),
        dkim_key=_dkim_key(settings),
        resends=1 if section.unknown_outcome == "resend" else 0,
        null_sender=section.autoresponse_null_sender,
        minute=_limit(section.limit_per_minute, _MINUTE),
        day=_limit(section.limit_per_day, _DAY),
        domains={
            domain.lower(): Limit.at_most(number, _MINUTE)
            for domain, number in section.domain_limits
        },
        autoresponses=Limit(section.autoresponse_limit, _DAY),
        pause=smtp_throttle.pause,
    )


def _limit(number: int | None, per: timedelta) -> Limit | None:
    return None if number is None else Limit.at_most(number, per)


def _normal_sender(text: str) -> str:
    return text.lower() if text.startswith("@") else normal(text)


def _account(settings: Settings) -> Account:
    section = settings.smtp
    if section.url is None:
        raise ConfigError(
            "expected SMTP_URL for the queue of e-mails, got none: set it to "
            "smtp://user:password@host:587, or name the queues of this worker (formrelay worker "
            "--queue, dramatiq --queues)"
        )
    host, port, security = section.address
    user, _ = section.login()
    step = section.timeout
    return Account(
        host,
        port,
        security,
        user=user,
        password=lambda: section.login()[1],
        timeouts=Timeouts(
            **dict.fromkeys(("connect", "tls", "greeting", "login", "mail", "rcpt"), step),
            **dict.fromkeys(("data", "block"), step),
            dot=_DOT,
        ),
        max_connections=section.max_connections,
        max_messages=section.max_messages,
        max_wait=timedelta(seconds=10),
        tls_context=None if section.ca_file is None else make_tls_context(section.ca_file),
        client_name=section.client_name,
    )


def _egress(settings: Settings) -> Egress:
    webhooks = settings.webhooks
    return Egress(
        timeout=settings.smtp.timeout,
        allow_http=False,
        allowed_private=webhooks.allowed_private_cidrs,
        proxy=webhooks.secret("proxy"),
        max_bytes=settings.emails.max_attachment_bytes + 1,
    )


def _dkim_key(settings: Settings) -> DkimKey | None:
    section = settings.emails
    if section.dkim_key_file is None or section.dkim_domain is None:
        return None
    return load_key(section.dkim_key_file, section.dkim_domain, section.dkim_selector)
