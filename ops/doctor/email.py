"""The check of e-mail in ``formrelay doctor``."""

from __future__ import annotations

from collections.abc import Iterator

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import ConfigError
from .finding import Finding


def check_smtp() -> Iterator[Finding]:
    """Check the settings and templates of e-mails, and ask the SMTP server; sends nothing."""
    settings = get_settings()
    if settings.smtp.url is None:
        says = (
            "SMTP_URL is not set: e-mails are not sent, and workers leave their queue alone; set it"
        )
        yield Finding("smtp", "weak", says)
        return
    from ...actors.emails.checks import problems_of_emails, problems_of_templates

    for problem in (*problems_of_emails(), *problems_of_templates()):
        yield Finding("smtp", "bad", problem)
    yield from _server(settings)
    if settings.emails.sender is None:
        yield Finding(
            "smtp", "weak", "EMAIL_FROM is not set: each job has to name its sender; set it"
        )
    if get_broker().state is None:
        says = "e-mails may be sent twice, and limits hold in each process alone"
        yield Finding("smtp", "weak", f"{says}: set STATE_URL to a Redis URL")
    if settings.emails.dkim_key_file is None:
        says = "EMAIL_DKIM_KEY_FILE is not set: set it, unless the server signs the e-mails"
        yield Finding("smtp", "weak", says)


def _server(settings: Settings) -> Iterator[Finding]:
    """Log in, and ask whether the server takes e-mails of the sender and without return path."""
    from ...actors.emails.resources import default_sender, make_account
    from ...sinks.smtp.probe import try_login

    try:
        account, sender = make_account(settings), default_sender(settings.emails)
    except ConfigError:
        return  # told already
    server = f"{account.host}:{account.port}"
    senders = [] if sender is None else [sender.address]
    if settings.emails.autoresponse_null_sender:
        senders.append("")
    steps = [*try_login(account, senders)]
    asked = [step for step in steps if step.name == "mail"]
    last = next(step for step in reversed(steps) if step.name != "mail")
    if not last.is_ok:
        yield Finding("smtp", "bad", f"{last.name}: {last.says}")
        return
    login = "accepts the login" if account.user else "answers (no login is configured)"
    yield Finding("smtp", "ok", f"{server} {login}")
    for address, step in zip(senders, asked, strict=False):
        if step.is_ok:
            continue
        if address:
            says = f"the server refuses e-mails from EMAIL_FROM: {step.says}"
            yield Finding("smtp", "bad", f"{says}; use an address that the account may send as")
        else:
            says = f"the server refuses autoresponses, which have no return path: {step.says}"
            yield Finding("smtp", "bad", f"{says}; set EMAIL_AUTORESPONSE_NULL_SENDER=false")
