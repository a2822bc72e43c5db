"""A host project on each broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.djangoapp.host import Host


@pytest.fixture(
    params=[pytest.param("redis", marks=pytest.mark.redis),
            pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
)  # fmt: skip
def broker(request: pytest.FixtureRequest) -> dict[str, str]:
    """FORMRELAY with each broker in turn."""
    kind = str(request.param)
    return {f"{kind.upper()}_URL": request.getfixturevalue(f"{kind}_url")}


@pytest.fixture
def host(tmp_path: Path, broker: dict[str, str]) -> Host:
    """The project on each broker, migrated."""
    return Host(tmp_path, settings={"FORMRELAY": broker}).migrated()
