"""The variables of the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, SecretStr

from .expected import Expected
from .secrets import secret
from .section import Section
from .types import Seconds
from .urls import url_check


def _token_check(text: str) -> str:
    """What can follow ``Authorization: Bearer`` (RFC 6750, and some characters more)."""
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise Expected("be printable ASCII without spaces")
    return text


ApiUrl = Annotated[
    str, AfterValidator(url_check("http", "https", advice="write https://host", plain=True))
]
Token = Annotated[SecretStr, secret(_token_check)]


class ApiSettings(Section):
    """API that stores submissions"""

    prefix: ClassVar[str] = "API_"

    url: ApiUrl | None = Field(None, description="Address of the API: http:// or https://.")
    token: Token | None = Field(None, description="Bearer token of the API.")
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="Seconds after which an attempt to connect fails."
    )
    timeout: Seconds = Field(
        timedelta(seconds=30), description="Seconds after which a request fails."
    )
