"""The variables of the worker that writes into Google Sheets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, Field, SecretStr

from ..core.retry import Backoff, Exponential
from .expected import Expected
from .secrets import Password, secret
from .types import Count, Delay, MillisecondsOrZero, QueueName, Whole
from .urls import url_check
from .workers import MAX_RETRIES_HELP, QUEUE_HELP, WorkerSettings

_check_url = url_check("https", "http", advice="write https://host", plain=True)
_LOCAL = {"127.0.0.1", "::1", "localhost"}


def _google_url(text: str) -> str:
    """Check the address of Google: plain HTTP only on this machine, since it gets tokens."""
    parts = urlsplit(_check_url(text))
    if parts.scheme.lower() == "http" and parts.hostname not in _LOCAL:
        raise Expected("be https://host, or http:// on this machine", got="http:// elsewhere")
    return text


def _key_file(text: str) -> str:
    """Check that a text is the key of a service account, without parsing the key itself."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or found.get("type") != "service_account":
        raise Expected(
            "be the JSON key of a service account",
            got="something else",
            advice="download a key in the Google console (IAM, Service accounts, Keys)",
        )
    return text


GoogleUrl = Annotated[str, AfterValidator(_google_url)]
ServiceAccountKey = Annotated[SecretStr, secret(_key_file, is_one_line=False)]


class SheetsSettings(WorkerSettings):
    """Google Sheets worker"""

    prefix: ClassVar[str] = "SHEETS_"
    counts_unavailable: ClassVar[bool] = False
    unavailable_backoff: ClassVar[Backoff | None] = Exponential()

    queue: QueueName = Field("sheets", description=QUEUE_HELP)
    worker_concurrency: Count | None = Field(
        None,
        description="Maximum number of spreadsheets that a process writes to at once. Default: "
        "half of WORKER_CONCURRENCY, since Google may take three minutes to answer.",
    )
    max_retries: Whole = Field(10, ge=0, description=MAX_RETRIES_HELP)
    retry_cap: Delay = Field(
        timedelta(minutes=10), description="Maximum number of seconds that a delay grows to."
    )
    batch_size: Count = Field(
        500, le=10_000, description="Maximum number of rows that one call writes."
    )
    batch_wait: MillisecondsOrZero = Field(
        timedelta(seconds=2),
        description="Milliseconds that a row waits for other rows of its spreadsheet.",
    )
    oauth_client_id: str | None = Field(
        None, description="Client id of your Google project, with which people consented."
    )
    oauth_client_secret: Password | None = Field(
        None, description="Client secret of your Google project."
    )
    service_account: ServiceAccountKey | None = Field(
        None,
        description="JSON key of a service account, for jobs that name no connection. Prefer a "
        "file: SHEETS_SERVICE_ACCOUNT_FILE.",
    )
    paused_wait: Delay = Field(
        timedelta(minutes=10),
        description="Seconds after which the jobs of a paused connection are tried again.",
    )
    project_limit_per_minute: Count = Field(
        300,
        description="Read calls a minute, and as many write calls, of your Google project. Used "
        "until a refused call names the real quota.",
    )
    user_limit_per_minute: Count = Field(
        60, description="The same limits for each person or service account."
    )
    api_url: GoogleUrl = Field(
        "https://sheets.googleapis.com", description="Address of the Google Sheets API."
    )
    token_url: GoogleUrl = Field(
        "https://oauth2.googleapis.com/token", description="Google's OAuth token endpoint."
    )

    @property
    def is_configured(self) -> bool:
        """Whether a worker can get any access token."""
        return self.oauth_client_id is not None or self.service_account is not None

    def concurrency_of(self, threads: int) -> int:
        return self.worker_concurrency or max(1, threads // 2)

    def faults(self) -> Iterator[tuple[str, str]]:
        if (self.oauth_client_id is None) == (self.oauth_client_secret is None):
            return
        missing, given = "SHEETS_OAUTH_CLIENT_SECRET", "SHEETS_OAUTH_CLIENT_ID"
        if self.oauth_client_id is None:
            missing, given = given, missing
        yield missing, f"expected {missing} to be set, because {given} is set, got nothing"
