"""Fixtures: the host project on each broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.djangoapp.host import Host


@pytest.fixture(
    params=[pytest.param("redis", marks=pytest.mark.redis),
            pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
)  # fmt: skip
def broker(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings FORMRELAY for each broker."""
    kind = str(request.param)
    return {f"{kind.upper()}_URL": request.getfixturevalue(f"{kind}_url")}


@pytest.fixture
def host(tmp_path: Path, broker: dict[str, str]) -> Host:
    """The migrated host project on each broker."""
    return Host(tmp_path, settings={"FORMRELAY": broker}).migrated()
