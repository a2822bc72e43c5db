"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.missing import skip_or_fail

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless browser for this test alone."""
    program = shutil.which("chromium")
    if program is None:
        skip_or_fail("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        yield found
        found.close()
