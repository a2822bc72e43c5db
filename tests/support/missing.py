"""Skips or fails tests whose programs are missing."""

from __future__ import annotations

from typing import NoReturn

import pytest

from tests.support.servers import in_ci


def skip_or_fail(message: str) -> NoReturn:
    """Fail the test in CI, where every test has to run; skip it elsewhere."""
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
