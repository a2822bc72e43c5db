"""The conftest.py of the suite for test_ran_check.py."""

from __future__ import annotations

import pytest

from tests.support.ran import KINDS, RanCheck
from tests.support.share import NAME, share_asked_for


def pytest_configure(config: pytest.Config) -> None:
    for kind in KINDS:
        config.addinivalue_line("markers", kind)
    config.pluginmanager.register(RanCheck(config, required=True))
    if share := share_asked_for():
        config.pluginmanager.register(share, NAME)


@pytest.fixture
def redis_url() -> str:
    return "redis://"
