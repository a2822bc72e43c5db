"""The demo's settings, isolated from the user's environment."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ...config.settings import known_names

#: Seconds before each attempt of a webhook. The default outside the demo is 0 s … 24 h.
RETRY_DELAYS = "0,0.5,1,2"
#: Seconds before each attempt of an e-mail. The default outside the demo is 0 s … 16 h.
_EMAIL_DELAYS = "0,1"
#: Environment variables that only the API's project reads.
_SITE_VARIABLES = ("ALLOWED_HOSTS", "DATABASE_URL", "SECRET_KEY", "SITE_DEBUG")
#: Smaller than the default, so that the progress bar moves in several steps.
_BATCH = 2_000


def signing_secret() -> str:
    """Return a random secret in the format of the Standard Webhooks specification."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


@dataclass(frozen=True, slots=True)
class MailAccount:
    """The account at the demo's SMTP server.

    Attributes:
        certificate: PEM file of the server's certificate and its key.
    """

    port: int
    certificate: Path
    user: str = "forms@demo.example"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24))


def demo_variables(
    folder: Path, api_url: str, token: str, mail: MailAccount, sheet_url: str
) -> dict[str, str]:
    """Return the variables that the demo sets; the others keep their defaults."""
    return {
        "BROKER": "embedded",
        "EMBEDDED_DATA_DIR": str(folder),
        "API_URL": api_url,
        "API_TOKEN": token,
        "CLICKHOUSE_URL": f"chdb://{quote(str(folder / 'clickhouse'))}",
        "EVENT_BATCH_SIZE": str(_BATCH),
        "WEBHOOK_ALLOW_HTTP": "true",
        "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8",
        "WEBHOOK_RETRY_DELAYS": RETRY_DELAYS,
        "WEBHOOK_MAX_RETRIES": str(RETRY_DELAYS.count(",")),
        # No circuit breaker: two endpoints fail on purpose, and an open circuit takes too long.
        "WEBHOOK_BREAKER_FAILURES": "0",
        "SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        "SMTP_USER": mail.user,
        "SMTP_PASSWORD": mail.password,
        "SMTP_CA_FILE": str(mail.certificate),
        "EMAIL_FROM": f"Forms <{mail.user}>",
        "EMAIL_RETRY_DELAYS": _EMAIL_DELAYS,
        "SHEETS_API_URL": sheet_url,
        "SHEETS_OAUTH_CLIENT_ID": "demo",
        "SHEETS_OAUTH_CLIENT_SECRET": secrets.token_urlsafe(24),
        # Smaller than the default, so that there are more calls than two.
        "SHEETS_BATCH_SIZE": "100",
        "SHEETS_BATCH_WAIT_MS": "200",
        "SHEETS_RETRY_DELAYS": "0,0.5",
        # The demo's spreadsheet has no quota.
        "SHEETS_PROJECT_LIMIT_PER_MINUTE": "10000",
        "SHEETS_USER_LIMIT_PER_MINUTE": "10000",
        "STATE_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "LOG_LEVEL": "WARNING",
    }


def write_env_file(folder: Path, values: Mapping[str, str]) -> None:
    """Write ``.env``, which every formrelay process in ``folder`` reads."""
    file = folder / ".env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in values.items()))


def isolated(command: list[str], **extra: str) -> list[str]:
    """Return a command that runs without formrelay's variables, which would override ``.env``.

    Uses env(1), because only :mod:`formrelay.config` reads the environment.

    Args:
        extra: variables to set.
    """
    names = sorted({*known_names(), *_SITE_VARIABLES})
    unset = [word for name in names for word in ("-u", name)]
    return [
        "/usr/bin/env",
        *unset,
        *(f"{name}={value}" for name, value in extra.items()),
        *command,
    ]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
