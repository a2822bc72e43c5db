"""The variables of the e-mail worker and its SMTP account."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr

from ..core.retry import Backoff, Exponential
from .base import Section
from .expected import Expected
from .secrets import Password, secret
from .types import AnyCase, Count, Delays, Pair, QueueName, Seconds, Split, Takes, Whole
from .urls import url_check
from .workers import (
    MAX_RETRIES_HELP,
    QUEUE_HELP,
    RETRY_BACKOFF_HELP,
    RETRY_DELAYS_HELP,
    BackoffName,
    WorkerSettings,
)

_check_smtp = url_check(
    *("smtp", "smtps", "smtp+none"),
    advice="write smtp://host:587 (STARTTLS) or smtps://host:465 (TLS)",
)


def _smtp_url(text: str) -> str:
    parts = urlsplit(_check_smtp(text))
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Expected(
            "be a URL without path, query and fragment", got="one of them", advice="remove it"
        )
    return text


SmtpUrl = Annotated[SecretStr, secret(_smtp_url)]
ImapUrl = Annotated[
    SecretStr,
    secret(
        url_check(
            *("imaps", "imap"),
            advice="write imaps://user@host/INBOX (TLS) or imap://user@host/INBOX (STARTTLS)",
        )
    ),
]
#: The port of each scheme.
_PORTS = {"smtp": 587, "smtps": 465, "smtp+none": 25}
_SECURITY: dict[str, Literal["starttls", "tls", "none"]] = {
    "smtp": "starttls",
    "smtps": "tls",
    "smtp+none": "none",
}


#: Checked further when the worker starts: this package knows nothing of e-mail.
Sender = Annotated[
    str,
    Field(pattern=r"^[^@\r\n]+@[^@\s]+\Z"),
    Takes("an address like forms@example.com or 'Forms <forms@example.com>'"),
]
#: Mailboxes, and domains as ``@example.com``.
Senders = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^@\s]*@[^@\s]+\Z")], ...],
    Split,
    Takes("addresses (forms@example.com) and domains (@example.com), comma-separated"),
]
DomainLimits = Annotated[
    tuple[
        Annotated[tuple[Annotated[str, Field(pattern=r"^[^@\s]+\Z")], Count], Pair],
        ...,
    ],
    Split,
    Takes("domains, each with a number a minute, comma-separated (gmail.com=60,web.de=20)"),
]


class SmtpSettings(Section):
    """SMTP server that sends e-mails"""

    prefix: ClassVar[str] = "SMTP_"

    url: SmtpUrl | None = Field(
        None,
        description="smtp://user:password@host:587 (STARTTLS), smtps://host:465 (TLS), or "
        "smtp+none://host:25 (unencrypted). Percent-encode special characters of user and "
        "password.",
    )
    user: str | None = Field(None, description="User, if the URL names none.")
    password: Password | None = Field(None, description="Password, if the URL has none.")
    oauth_provider: Annotated[Literal["google", "microsoft"], AnyCase] | None = Field(
        None,
        description="'google' or 'microsoft': log in with an OAuth token (XOAUTH2) instead of a "
        "password.",
    )
    oauth_tenant: str = Field("common", description="Microsoft's directory (tenant) id.")
    oauth_client_id: str | None = Field(None, description="Client id of your OAuth app.")
    oauth_client_secret: Password | None = Field(
        None, description="Client secret of your OAuth app."
    )
    oauth_refresh_token: Password | None = Field(
        None,
        description="Refresh token of the consent. Workers share the access tokens made from it; "
        "Redis keeps them encrypted with STATE_KEY.",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust instead of the system's."
    )
    client_name: str | None = Field(
        None, description="Host name of this machine for EHLO. Default: its own name."
    )
    max_connections: Count = Field(
        3, description="Maximum number of connections of a process at a time."
    )
    max_messages: Count = Field(
        100, description="Number of e-mails after which a connection is closed."
    )
    timeout: Seconds = Field(
        timedelta(seconds=60),
        description="Seconds after which a step fails, except the last: its answer is waited for "
        "for ten minutes, because a shorter time makes duplicates.",
    )

    @property
    def address(self) -> tuple[str, int, Literal["starttls", "tls", "none"]]:
        """Host, port and encryption of ``url``.

        Raises:
            ValueError: ``url`` is not set.
        """
        url = self.secret("url")
        if url is None:
            raise ValueError("SMTP_URL is not set")
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        return parts.hostname or "", parts.port or _PORTS[scheme], _SECURITY[scheme]

    def login(self) -> tuple[str | None, str | None]:
        """The current user and password."""
        parts = urlsplit(self.secret("url") or "")
        user = unquote(parts.username) if parts.username else self.user
        password = unquote(parts.password) if parts.password else self.secret("password")
        return user, password

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.url is None:
            return
        user, password = self.login()
        if user is not None and password is None and self.oauth_provider is None:
            yield (
                "SMTP_PASSWORD",
                "expected SMTP_PASSWORD or SMTP_OAUTH_PROVIDER to be set, because the SMTP server "
                "has a user, got neither",
            )
        if user is None and (password is not None or self.oauth_provider is not None):
            yield (
                "SMTP_USER",
                "expected SMTP_USER to be set, because there is a password or "
                "SMTP_OAUTH_PROVIDER, got nothing",
            )
        for name in ("oauth_client_id", "oauth_refresh_token") if self.oauth_provider else ():
            if getattr(self, name) is None:
                variable = f"SMTP_{name.upper()}"
                yield (
                    variable,
                    f"expected {variable} to be set, because SMTP_OAUTH_PROVIDER is set, got "
                    "nothing",
                )


class EmailSettings(WorkerSettings):
    """E-mail worker"""

    prefix: ClassVar[str] = "EMAIL_"
    counts_unavailable: ClassVar[bool] = False
    # Not retry_delays, which are for a server that refuses an e-mail for hours.
    unavailable_backoff: ClassVar[Backoff | None] = Exponential()

    queue: QueueName = Field("emails", description=QUEUE_HELP)
    worker_concurrency: Count | None = Field(
        None,
        description="Maximum number of e-mails in progress in a process. Default: half of "
        "WORKER_CONCURRENCY, so that a slow server leaves threads to other queues.",
    )
    max_retries: Whole = Field(8, ge=0, description=MAX_RETRIES_HELP)
    retry_backoff: BackoffName = Field("schedule", description=RETRY_BACKOFF_HELP)
    retry_delays: Delays = Field(
        tuple(timedelta(minutes=n) for n in (0, 5, 15, 30, 60, 120, 240, 480, 960)),
        description=RETRY_DELAYS_HELP,
    )
    sender: Sender | None = Field(
        None,
        validation_alias="EMAIL_FROM",
        description="Sender of e-mails that name none: forms@example.com or "
        "'Forms <forms@example.com>'.",
    )
    allowed_from: Senders = Field(
        (),
        description="Other senders that jobs may name: addresses, and whole domains as "
        "@example.com, comma-separated.",
    )
    templates_folder: Path | None = Field(
        None, description="Folder of templates. Four templates ship with formrelay."
    )
    attachments_folder: Path | None = Field(
        None, description="The only folder whose files may be attached. Default: none may."
    )
    max_attachment_bytes: Count = Field(
        10_000_000, description="Maximum size of all attachments of an e-mail."
    )
    max_connections: Count | None = Field(
        None,
        description="Maximum number of SMTP connections of all workers together. Default: no limit "
        "but SMTP_MAX_CONNECTIONS of each process.",
    )
    limit_per_minute: Count | None = Field(
        None,
        description="Maximum number of e-mails a minute of all workers. Default: no limit.",
    )
    limit_per_day: Count | None = Field(
        None,
        description="Maximum number of recipients a day of all workers. Default: no limit.",
    )
    domain_limits: DomainLimits = Field(
        (),
        description="Maximum number of recipients a minute by domain, comma-separated: "
        "gmail.com=60,web.de=20.",
    )
    autoresponse_limit: Count = Field(
        5,
        description="Maximum number of autoresponses a day to one recipient, over all forms.",
    )
    unknown_outcome: Annotated[Literal["resend", "dead"], AnyCase] = Field(
        "resend",
        description="What to do if the connection was lost before the server answered whether it "
        "took the e-mail: 'resend' once, or 'dead' (dead-letter it).",
    )
    autoresponse_null_sender: bool = Field(
        True,
        description="Whether autoresponses have no return path, as RFC 3834 asks. Set it to false "
        "for a server that refuses such e-mails.",
    )
    dkim_domain: str | None = Field(None, description="Domain of the DKIM signature.")
    dkim_selector: str = Field("formrelay", description="Selector of the DKIM key in the DNS.")
    dkim_key_file: Path | None = Field(
        None, description="PEM file of the private DKIM key. Default: e-mails are not signed."
    )
    imap_url: ImapUrl | None = Field(
        None,
        description="Mailbox of reports for `formrelay bounces`: imaps://user:password@host/INBOX "
        "(TLS), or imap:// (STARTTLS). Percent-encode special characters.",
    )
    imap_password: Password | None = Field(
        None, description="Password of the mailbox of reports, if its URL has none."
    )
    imap_oauth_refresh_token: Password | None = Field(
        None,
        description="Refresh token of the mailbox of reports, if it has no password and the token "
        "is not SMTP_OAUTH_REFRESH_TOKEN. The other SMTP_OAUTH_ variables count for both.",
    )
    imap_ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities to trust for the mailbox of reports instead of "
        "the system's.",
    )

    def concurrency_of(self, threads: int) -> int:
        return self.worker_concurrency or max(1, threads // 2)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from super().faults()
        if (self.dkim_key_file is None) == (self.dkim_domain is None):
            return
        missing, given = "EMAIL_DKIM_DOMAIN", "EMAIL_DKIM_KEY_FILE"
        if self.dkim_key_file is None:
            missing, given = given, missing
        yield missing, f"expected {missing} to be set, because {given} is set, got nothing"
