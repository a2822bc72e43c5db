"""What a test does without a program that it needs."""

from __future__ import annotations

from typing import NoReturn

import pytest

from tests.support.servers import in_ci


def missing(message: str) -> NoReturn:
    """Skip on a laptop; fail in CI, where nothing may be left out unnoticed."""
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
