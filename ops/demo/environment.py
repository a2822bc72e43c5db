"""The demo's own settings: nothing of the user's environment gets in."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ...config.settings import known_names

#: The waits before the attempts of a webhook, in seconds. Outside the demo it is 0 s … 24 h.
RETRY_DELAYS = "0,0.5,1,2"
#: What the API's project reads from the environment beside what formrelay does.
_OF_THE_SITE = ("ALLOWED_HOSTS", "DATABASE_URL", "SECRET_KEY", "SITE_DEBUG")
#: Smaller than the default, so that there are several blocks and their bar moves.
_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made anew for each run: the API's bearer token and the endpoints' signing secret."""

    token: str = field(repr=False)
    signing: str = field(repr=False)

    @classmethod
    def random(cls) -> Secrets:
        return cls(secrets.token_urlsafe(32), signing_secret())


def signing_secret() -> str:
    """A secret as the Standard Webhooks specification writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def variables(folder: Path, api_url: str, token: str) -> dict[str, str]:
    """Every variable that the demo sets; the others keep their defaults."""
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
        # No breaker: two endpoints fail on purpose, and would be left alone for too long.
        "WEBHOOK_BREAKER_FAILURES": "0",
        "LOG_LEVEL": "WARNING",
    }


def write_env_file(folder: Path, values: Mapping[str, str]) -> None:
    """Write ``.env``, which every formrelay process that runs in ``folder`` reads."""
    file = folder / ".env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={_quoted(value)}\n" for name, value in values.items()))


def without_ours(command: list[str], **others: str) -> list[str]:
    """The command, run without any variable of formrelay's: they would win over ``.env``.

    ``others`` are variables that it gets instead.

    Left to env(1), because only :mod:`formrelay.config` reads the environment.
    """
    names = sorted({*known_names(), *_OF_THE_SITE})
    unset = [word for name in names for word in ("-u", name)]
    return [
        "/usr/bin/env",
        *unset,
        *(f"{name}={value}" for name, value in others.items()),
        *command,
    ]


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
