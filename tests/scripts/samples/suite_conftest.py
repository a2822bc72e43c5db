"""The conftest.py of the sample suite, which several processes may share."""

from __future__ import annotations

import pytest

from tests.support.share import share_asked_for


def pytest_configure(config: pytest.Config) -> None:
    if share := share_asked_for():
        config.pluginmanager.register(share)
