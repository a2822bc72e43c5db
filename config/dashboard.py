"""The variables of the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from .base import Section
from .expected import Expected
from .secrets import secret

#: Shorter tokens could be guessed.
_SHORTEST = 16


def _check_token(text: str) -> str:
    if len(text) < _SHORTEST:
        raise Expected(
            f"have at least {_SHORTEST} characters",
            advice="make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return text


Token = Annotated[SecretStr, secret(_check_token)]


class DashboardSettings(Section):
    """Dashboard"""

    prefix: ClassVar[str] = "DASHBOARD_"

    token: Token | None = Field(
        None, description="Token to log in to formrelay dashboard as an operator."
    )
    read_only_token: Token | None = Field(
        None, description="Token to log in to formrelay dashboard without the right to change."
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.token is not None and self.secret("token") == self.secret("read_only_token"):
            yield (
                "DASHBOARD_READ_ONLY_TOKEN",
                "expected DASHBOARD_READ_ONLY_TOKEN to differ from DASHBOARD_TOKEN, got the same: "
                "everyone who may look could change things",
            )
