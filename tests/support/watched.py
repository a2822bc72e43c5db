"""Pages of a browser whose errors fail the test, and a check by axe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

#: What a page must fulfil: WCAG 2.2, level AA, and axe's good practices.
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def watch(page: Page, problems: list[str]) -> Page:
    """Collect the errors of a page: scripts, the console, CSP violations, requests to outside."""
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda said: said.type in ("error", "warning") and problems.append(f"console: {said.text}"),
    )
    page.on("request", lambda request: _check_request(request.url, problems))
    return page


def follow(link: Locator) -> None:
    """Click on a link or button, and wait until the page that it leads to has loaded.

    A click alone returns before the style sheet is there: the page would be measured without it.
    """
    with link.page.expect_navigation():
        link.click()


def violations(page: Page) -> list[str]:
    """The violations that axe finds on a page, with the first elements of each."""
    from axe_playwright_python.sync_playwright import Axe

    options: dict[str, Any] = {"runOnly": {"type": "tag", "values": _TAGS}}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes'][:3]]}"
        for each in found
    ]


def new_page(context: BrowserContext, problems: list[str]) -> Page:
    """A page of a context, watched."""
    return watch(context.new_page(), problems)


def _check_request(url: str, problems: list[str]) -> None:
    if not url.startswith(("http://127.0.0.1:", "data:", "about:")):
        problems.append(f"request to outside: {url}")
