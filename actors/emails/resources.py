"""Objects that all e-mails of a process share, made from the settings at first use."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, NoReturn

from ...brokers import get_broker
from ...config import EmailSettings, Settings, get_settings
from ...core.errors import ConfigError, DeferReason, InvalidJob, NotNow
from ...core.hosts import InvalidHost, ascii_host
from ...core.throttle import Throttle
from ...middleware.lock_renewal import LockRenewal
from ...sinks.http import Egress
from ...sinks.smtp.account import Account, Timeouts, make_tls_context
from ...sinks.smtp.address import Mailbox, normal, parse_mailbox, without_tag
from ...sinks.smtp.dkim import DkimKey, load_key
from ...sinks.smtp.pool import Pool
from ...state import (
    make_bounce_rates,
    make_journal,
    make_leases,
    make_rate_limits,
    make_suppressions,
)
from ...state.bounce_rates import BounceRates
from ...state.journal import KEEP, Journal
from ...state.rate_limits import Limit, RateLimits
from ...state.suppressions import Suppressions
from ..resources import per_process, smtp_throttle
from .access_token import make_token
from .shares import make_shares

if TYPE_CHECKING:
    from .attachments import Attachments
    from .render import Templates

_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_ACCOUNT_MINUTE, _ACCOUNT_DAY = "email:account:minute", "email:account:day"
#: How long the server may take for its last answer. A shorter time causes duplicates.
_DOT = timedelta(minutes=10)
#: How long a thread waits for a connection before its e-mail is deferred.
_MAX_WAIT = timedelta(seconds=10)
#: How long an unused connection is kept; shorter if another worker may wait for it.
_IDLE, _IDLE_OF_ALL = timedelta(seconds=60), timedelta(seconds=5)
#: How often a reached limit is checked again: an operator may have raised it.
_ASK_AGAIN = timedelta(minutes=1)
#: E-mails over the limit of a domain reserve their turns for this time ahead.
_BOOKED = timedelta(hours=6)
#: E-mails without a turn come back spread over this time, not all at once.
_SPREAD_SECONDS = 300
#: How much longer outcomes are kept than dead letters, which may be replayed.
_KEEP_LONGER = timedelta(days=7)

logger = logging.getLogger("formrelay.emails")


@dataclass(frozen=True, slots=True)
class EmailResources:
    """The objects that all e-mails of a process share.

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
    bounce_rates: BounceRates
    limits: RateLimits
    renewal: LockRenewal
    dkim_key: DkimKey | None
    resends: int
    null_sender: bool
    minute: Limit | None
    day: Limit | None
    domains: Mapping[str, Limit]
    autoresponses: Limit
    throttle: Throttle

    def take_limits(self, recipients: Sequence[Mailbox], once: str) -> None:
        """Count an e-mail to these recipients.

        Args:
            once: names the attempt. It counts once, however often it is deferred.

        Raises:
            NotNow: a limit is reached.
        """
        by_domain = Counter(each.domain for each in recipients)
        limits = [self.domains.get(domain) for domain in by_domain]
        wait = self.limits.take(
            [(_domain_key(domain), limit) for domain, limit in zip(by_domain, limits, strict=True)],
            [_clipped(cost, limit) for cost, limit in zip(by_domain.values(), limits, strict=True)],
            once=f"{once}\ndomains",
            book=_BOOKED,
        )
        if wait is not None:  # only e-mails to these domains wait
            is_booked = any(limits) and wait <= _BOOKED
            spread = 0 if is_booked else random.uniform(0, _SPREAD_SECONDS)  # noqa: S311
            wait = min(wait, _BOOKED) + timedelta(seconds=spread)
            raise NotNow(
                "a limit on e-mails to a domain is reached",
                after=wait,
                reason=DeferReason.RATE_LIMIT,
            )
        wait = self.limits.take(
            [(_ACCOUNT_MINUTE, self.minute), (_ACCOUNT_DAY, self.day)],
            [1, _clipped(len(recipients), self.day)],
            once=f"{once}\naccount",
        )
        if wait is not None:
            self.wait_for_account(wait)

    def wait_for_account(self, wait: timedelta) -> NoReturn:
        """Defer an e-mail and fetch no other, so that they keep their order.

        Raises:
            NotNow: always.
        """
        wait = min(wait, _ASK_AGAIN)
        self.throttle.pause(wait)
        raise NotNow(
            "a limit on e-mails of the account is reached",
            after=wait,
            reason=DeferReason.RATE_LIMIT,
        )

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
        address = mailbox.address
        name = f"email:autoresponse:{without_tag(address)}"
        # With the address: each recipient of an e-mail counts.
        once = f"{key}\n{normal(address)}"
        return self.limits.take([(name, self.autoresponses)], once=once) is None


def _domain_key(domain: str) -> str:
    return f"email:domain:{domain}"


def _clipped(cost: int, limit: Limit | None) -> int:
    """A cost that the limit can ever allow."""
    return cost if limit is None else min(cost, limit.capacity)


@per_process
def email_resources() -> EmailResources:
    """The resources of the e-mail worker.

    Raises:
        ConfigError: a setting is missing or wrong, or a package is not installed.
    """
    settings = get_settings()
    section = settings.emails
    try:
        from .attachments import Attachments
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    state, renewal, account = get_broker().state, LockRenewal(), make_account(settings)
    name = f"{account.host}:{account.port} {account.user}"
    return EmailResources(
        sender=default_sender(section),
        allowed_from=frozenset(allowed_sender(each) for each in section.allowed_from),
        templates=make_templates(section.templates_folder),
        attachments=Attachments(
            attachments_folder(section),
            _egress(settings),
            section.max_attachment_bytes,
        ),
        pool=Pool(
            account,
            make_share=make_shares(make_leases(state), name, section.max_connections, renewal),
        ),
        journal=make_journal(
            state, keep=max(KEEP, settings.broker.dead_letter_retention + _KEEP_LONGER)
        ),
        suppressions=make_suppressions(state),
        bounce_rates=make_bounce_rates(state),
        limits=make_rate_limits(state),
        renewal=renewal,
        dkim_key=make_dkim_key(section),
        resends=1 if section.unknown_outcome == "resend" else 0,
        null_sender=section.autoresponse_null_sender,
        minute=_limit(section.limit_per_minute, _MINUTE),
        day=_limit(section.limit_per_day, _DAY),
        domains=domain_limits(section),
        autoresponses=Limit(section.autoresponse_limit, _DAY),
        throttle=smtp_throttle,
    )


def _limit(number: int | None, per: timedelta) -> Limit | None:
    return None if number is None else Limit.at_most(number, per)


def missing_smtp_url() -> str:
    """The error message if no SMTP server is configured."""
    return (
        "expected SMTP_URL for the queue of e-mails, got none: set it to "
        "smtp://user:password@host:587, and pip install 'formrelay[email]'"
    )


def domain_limits(section: EmailSettings) -> dict[str, Limit]:
    """The limits by domain, in ASCII as the domains of recipients.

    Raises:
        ConfigError: a domain is none.
    """
    try:
        return {
            ascii_host(domain): Limit.at_most(number, _MINUTE)
            for domain, number in section.domain_limits
        }
    except InvalidHost as error:
        raise ConfigError(f"EMAIL_DOMAIN_LIMITS: {error}") from None


def missing_package(error: ModuleNotFoundError) -> ConfigError:
    """The error if a package of the extra is not installed."""
    return ConfigError(
        f"expected the package {error.name} for the queue of e-mails, got none: "
        "pip install 'formrelay[email]'"
    )


def make_templates(folder: Path | None) -> Templates:
    """The templates of a folder, and formrelay's own templates.

    Raises:
        ConfigError: the folder does not exist, or a package is not installed.
    """
    try:
        from .render import Templates
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return Templates(_folder("EMAIL_TEMPLATES_FOLDER", folder))


def attachments_folder(section: EmailSettings) -> Path | None:
    """The folder of attachments; None without one.

    Raises:
        ConfigError: it does not exist.
    """
    return _folder("EMAIL_ATTACHMENTS_FOLDER", section.attachments_folder)


def _folder(variable: str, folder: Path | None) -> Path | None:
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"expected {variable} to be a folder, got {str(folder)!r}")
    return folder


def default_sender(section: EmailSettings) -> Mailbox | None:
    """The sender of e-mails that name none; None without one.

    Raises:
        ConfigError: it is no address.
    """
    return None if section.sender is None else _mailbox("EMAIL_FROM", section.sender)


def allowed_sender(text: str) -> str:
    """An address in normal form, or a domain as ``@example.com``.

    Raises:
        ConfigError: it is neither.
    """
    if text.startswith("@"):
        return f"@{_mailbox('EMAIL_ALLOWED_FROM', f'x{text}').domain}"
    return normal(_mailbox("EMAIL_ALLOWED_FROM", text).address)


def _mailbox(variable: str, text: str) -> Mailbox:
    try:
        return parse_mailbox(text)
    except InvalidJob as error:
        raise ConfigError(f"{variable}: {error}") from None


def make_account(settings: Settings) -> Account:
    """The account at the SMTP server.

    Raises:
        ConfigError: a variable is missing or wrong.
    """
    section = settings.smtp
    if section.url is None:
        raise ConfigError(missing_smtp_url())
    host, port, security = section.address
    user, _ = section.login()
    step = section.timeout
    return Account(
        host,
        port,
        security,
        user=user,
        password=lambda: section.login()[1],
        token=make_token(settings),
        timeouts=Timeouts(
            **dict.fromkeys(("connect", "tls", "greeting", "login", "mail", "rcpt"), step),
            **dict.fromkeys(("data", "block"), step),
            dot=_DOT,
        ),
        max_connections=section.max_connections,
        max_messages=section.max_messages,
        max_wait=_MAX_WAIT,
        idle=_IDLE if settings.emails.max_connections is None else _IDLE_OF_ALL,
        tls_context=_tls_context(section.ca_file),
        client_name=section.client_name,
    )


def _tls_context(ca_file: Path | None) -> SSLContext | None:
    if ca_file is None:
        return None
    try:
        return make_tls_context(ca_file)
    except ConfigError as error:
        raise ConfigError(f"SMTP_CA_FILE: {error}") from None


def _egress(settings: Settings) -> Egress:
    webhooks = settings.webhooks
    return Egress(
        timeout=settings.smtp.timeout,
        allow_http=False,
        allowed_private=webhooks.allowed_private_cidrs,
        proxy=webhooks.secret("proxy"),
        max_bytes=settings.emails.max_attachment_bytes + 1,
    )


def make_dkim_key(section: EmailSettings) -> DkimKey | None:
    """The key that signs e-mails; None without one.

    Raises:
        ConfigError: the key cannot be used, or does not fit the sender.
    """
    if section.dkim_key_file is None or section.dkim_domain is None:
        return None
    key = load_key(
        section.dkim_key_file,
        section.dkim_domain,
        section.dkim_selector,
        variable="EMAIL_DKIM_KEY_FILE",
    )
    sender = default_sender(section)
    if sender is not None and not key.is_aligned(sender.domain):
        raise ConfigError(
            f"expected EMAIL_DKIM_DOMAIN to fit the domain of EMAIL_FROM ({sender.domain}), got "
            f"{section.dkim_domain}: receivers with DMARC would not accept the signature"
        )
    return key
