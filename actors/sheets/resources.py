"""Objects that all jobs of a process share, made from the settings at first use."""

from __future__ import annotations

from dataclasses import dataclass

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import ConfigError
from ...sinks.oauth import OAuthClient, Provider
from ...sinks.sheets import HttpTransport, Layouts
from ...sinks.sheets.client import Transport
from ...sinks.sheets.service_account import ServiceAccount
from ...state import make_claims, make_rate_limits, make_tokens
from ...state.claims import Claims
from ...state.tokens import Tokens
from ..resources import open_tokens, per_process
from .connections import Connections
from .quotas import Quotas
from .slots import Slots


@dataclass(frozen=True, slots=True)
class SheetResources:
    """The objects that all jobs of a process share."""

    api_url: str
    transport: Transport
    layouts: Layouts
    claims: Claims
    connections: Connections
    quotas: Quotas
    slots: Slots


@per_process
def sheet_resources() -> SheetResources:
    """The resources of the worker of Google Sheets.

    Raises:
        ConfigError: a setting is missing or wrong, or a package is not installed.
    """
    settings = get_settings()
    section, state = settings.sheets, get_broker().state
    if not section.is_configured:
        raise ConfigError(missing_account())
    transport = HttpTransport()
    key = section.secret("service_account")
    client = make_oauth_client(settings)
    tokens = None if client is None else open_tokens(settings)
    return SheetResources(
        api_url=section.api_url,
        transport=transport,
        layouts=Layouts(),
        claims=make_claims(state),
        connections=Connections(
            tokens=tokens,
            client=client,
            account=None if key is None else ServiceAccount(key, transport),
            account_tokens=tokens or _tokens_of_process(),
            paused_wait=section.paused_wait,
        ),
        quotas=Quotas(
            make_rate_limits(state),
            section.project_limit_per_minute,
            section.user_limit_per_minute,
        ),
        slots=Slots(section.concurrency_of(settings.worker_concurrency), rows=section.batch_size),
    )


def missing_account() -> str:
    """The error message if no Google account is configured."""
    return (
        "expected SHEETS_SERVICE_ACCOUNT_FILE, or SHEETS_OAUTH_CLIENT_ID and "
        "SHEETS_OAUTH_CLIENT_SECRET, for the queue of Google Sheets, got none: set one, and pip "
        "install 'formrelay[sheets]'"
    )


def make_oauth_client(settings: Settings) -> OAuthClient | None:
    """The OAuth client of the Google project; None without one."""
    section = settings.sheets
    if section.oauth_client_id is None:
        return None
    return OAuthClient(
        Provider("google", section.token_url),
        section.oauth_client_id,
        lambda: section.secret("oauth_client_secret"),
    )


def _tokens_of_process() -> Tokens:
    """Tokens that this process alone knows: a service account can have any number."""
    return make_tokens(None, lambda: None, get_broker().idempotency_store())
