"""Why the worker of e-mails cannot work, all reasons at once. Asks no SMTP server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import BrokerError, ConfigError
from .access_token import unreadable_token
from .resources import (
    allowed_sender,
    attachments_folder,
    default_sender,
    domain_limits,
    make_account,
    make_dkim_key,
    make_templates,
)

#: Modules of the extra ``email`` that the worker needs.
_MODULES = ("css_inline", "inscriptis", "jinja2", "puremagic")


def problems_of_emails() -> list[str]:
    """A line for each setting, file or package with which no e-mail could be sent."""
    settings = get_settings()
    return [*_missing_packages(), *_wrong_settings(settings), *_missing_store(settings)]


def problems_of_templates() -> list[str]:
    """A line for each template that cannot be used: the e-mails of others can be sent."""
    if _missing_packages():
        return []
    try:
        return make_templates(get_settings().emails.templates_folder).problems()
    except ConfigError:
        return []  # the folder is missing, which problems_of_emails() tells


def _missing_packages() -> list[str]:
    missing = [name for name in _MODULES if find_spec(name) is None]
    if not missing:
        return []
    packages = ", ".join(name.replace("_", "-") for name in missing)
    return [
        f"expected all packages of the e-mail worker to be installed, got none of {packages}: "
        "pip install 'formrelay[email]'"
    ]


def _wrong_settings(settings: Settings) -> Iterator[str]:
    section = settings.emails
    checks: list[Callable[[], object]] = [
        lambda: make_account(settings),
        lambda: default_sender(section),
        lambda: attachments_folder(section),
        lambda: domain_limits(section),
    ]
    checks += [lambda text=text: allowed_sender(text) for text in section.allowed_from]  # type: ignore[misc]
    if not _missing_packages():
        checks.append(lambda: make_templates(section.templates_folder))
    found = [_error_of(check) for check in checks]
    if found[1] is None:  # otherwise it would be told again
        found.append(_error_of(lambda: make_dkim_key(section)))
    yield from (line for line in found if line is not None)


def _error_of(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ConfigError as error:
        return str(error)
    return None


def _missing_store(settings: Settings) -> Iterator[str]:
    """What needs a store that all workers share, which outlives them."""
    if get_broker().state is not None:
        with suppress(BrokerError, ConfigError):  # it is away; STATE_KEY is missing (told above)
            if (line := unreadable_token(settings)) is not None:
                yield line
        return
    if settings.emails.unknown_outcome == "dead":
        yield (
            "expected STATE_URL to be set, because EMAIL_UNKNOWN_OUTCOME is 'dead', got nothing: "
            "without it, the outcomes of e-mails are forgotten when a worker dies"
        )
    if settings.smtp.oauth_provider == "microsoft":
        yield (
            "expected STATE_URL to be set, because SMTP_OAUTH_PROVIDER is 'microsoft', got "
            "nothing: Microsoft replaces refresh tokens, and the first one ends after 90 days"
        )
