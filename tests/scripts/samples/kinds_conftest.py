"""The conftest.py of the suite for test_ran_check.py."""

from __future__ import annotations

import pytest

from tests.support.ran import KINDS, RanCheck


def pytest_configure(config: pytest.Config) -> None:
    for kind in KINDS:
        config.addinivalue_line("markers", kind)
    config.pluginmanager.register(RanCheck(config, required=True))


@pytest.fixture
def redis_url() -> str:
    return "redis://"
