"""Loads settings from variables alone."""

from __future__ import annotations

import pytest

from formrelay.config import Settings
from formrelay.core.errors import ConfigError

REDIS = {"REDIS_URL": "redis://host:6379/0"}


def load(**environ: str) -> Settings:
    return Settings.load(REDIS | environ, env_file=None)


def lines(**environ: str) -> list[str]:
    """The error lines for these variables."""
    with pytest.raises(ConfigError) as caught:
        Settings.load(environ, env_file=None)
    assert caught.value.__context__ is None, "pydantic's error, with the values, travels along"
    return str(caught.value).split("\n")


def line(**environ: str) -> str:
    """The only error line for these variables and a broker."""
    (only,) = lines(**REDIS | environ)
    return only
