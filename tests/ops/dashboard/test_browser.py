"""The pages in Debian's Chromium with text from anywhere, and what a refresh keeps.

Any message on the console fails, so that a violation of the policy does. tests/acceptance checks
all pages with axe, on both brokers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import waitress

from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.ops.dashboard import view
from formrelay.ops.dashboard.access import LoopbackAccess, Role, TokenAccess
from formrelay.state import make_bounce_rates
from tests.ops.dashboard.conftest import HOSTILE, TOKENS, Site, serving
from tests.ops.dashboard.helpers import FAILURE, add_history, add_worker
from tests.support.browser import browser
from tests.support.missing import skip_or_fail
from tests.support.waiting import wait_until
from tests.support.watched import follow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, DESK = {"width": 375, "height": 700}, {"width": 1280, "height": 800}
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application; its URL."""
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=4, ident=None)
    with serving(server) as url:
        yield url


@pytest.fixture
def url(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a dashboard without login, whose pages refresh often."""
    monkeypatch.setattr(view, "REFRESH_SECONDS", 0.2)
    with served(site.app(LoopbackAccess())) as found:
        yield found


@contextmanager
def opened(chromium: Browser, *, expected: str = "", **options: Any) -> Iterator[Page]:
    """A page of a browser context of its own; what its console says is ``expected``, or nothing."""
    context = chromium.new_context(**options)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    try:
        yield page
    finally:
        context.close()
    assert "".join(said) == expected


def check(page: Page) -> None:
    """Check a page with axe, and that it does not scroll sideways."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        skip_or_fail("axe-playwright-python is not installed")
    found = Axe().run(page)
    assert found.violations_count == 0, f"{page.url}\n{found.generate_report()}"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def fill(site: Site) -> None:
    """Put hostile and long text into every field."""
    failure = FAILURE | dict.fromkeys(("error", "message", "worker", "at"), HOSTILE + LONG)
    fields = {
        "actor_name": HOSTILE + LONG,
        "kwargs": {HOSTILE: [HOSTILE + LONG, None, {LONG: 1}]},
        "options": {"failure": failure | {"where": [HOSTILE], "causes": [LONG]}},
    }
    for state in ("waiting", "scheduled", "dead"):
        site.add("webhooks", state, HOSTILE + LONG + state, **fields)
        site.add("webhooks", state, f"plain-{state}", options={"failure": FAILURE})
    add_history(site, "webhooks", 90, 10)
    add_worker(site, HOSTILE + LONG, "webhooks", LONG)
    site.broker.queues.add(LONG)
    site.post("/queue/pause", name="webhooks", do="pause")
    now = site.broker.clock.time()
    report = DeliveryReport(HOSTILE + LONG, HOSTILE + LONG, False, 3, now, now, 503)
    make_registry(site.broker.state).report([report], DisableRules())
    make_bounce_rates(site.broker.state).note_bounced(f"{HOSTILE}{LONG}\n2026-01-31 09", "x")


def visit(page: Page, url: str) -> Iterator[None]:
    """Open each page of the navigation, a queue and two jobs; yields at each."""
    page.goto(url)
    links = page.locator("header nav a").evaluate_all("all => all.map(each => each.href)")
    assert len(links) >= 2
    for link in links:
        page.goto(link)
        yield
    for state in ("in_flight", "scheduled", "dead"):
        page.goto(f"{url}/queue?name=webhooks&state={state}")
        yield
    jobs = page.locator("tbody th a").evaluate_all("all => all.map(each => each.href)")
    for job in jobs:
        page.goto(job)
        yield
    for path, button in (("webhooks", "Send test"), ("dead?window=all", "Delete all that match")):
        page.goto(f"{url}/{path}")
        follow(page.get_by_role("button", name=button).first)
        page.get_by_role("link", name="Cancel").wait_for()
        yield


def test_hostile_and_long_text_in_every_field_fits_a_phone(
    chromium: Browser, site: Site, url: str
) -> None:
    fill(site)
    with opened(chromium, viewport=PHONE, color_scheme="dark") as page:
        seen = []
        for _ in visit(page, url):
            seen.append(page.url)
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], page.url
            if "/job" in page.url or page.url in (f"{url}/", f"{url}/webhooks/change"):
                check(page)
        assert len(seen) >= 10


def test_empty_pages_are_accessible(chromium: Browser, site: Site, url: str) -> None:
    with opened(chromium, viewport=PHONE, color_scheme="dark") as page:
        for path in ("/", "/queue?name=webhooks&state=dead"):
            page.goto(url + path)
            check(page)


def test_the_login_is_accessible_and_leads_to_the_page(chromium: Browser, site: Site) -> None:
    app = site.app(TokenAccess(lambda: TOKENS))
    with served(app) as url, opened(chromium, viewport=PHONE) as page:
        page.goto(f"{url}/queue?name=webhooks")
        check(page)
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", TOKENS[Role.READ_ONLY])
        page.press("#token", "Enter")
        page.wait_for_selector("text=read-only")
        assert page.url == f"{url}/queue?name=webhooks"
        assert page.locator("button:has-text('Pause')").count() == 1  # of the updates


def test_a_dead_letter_is_found_read_revealed_edited_and_replayed(
    chromium: Browser, site: Site, url: str
) -> None:
    failure = FAILURE | {"causes": ["OSError: no route"]}
    kwargs = {"payload": {"name": "Ann"}}
    site.add("webhooks", "dead", "d1", kwargs=kwargs, options={"failure": failure})
    refused = "Failed to load resource: the server responded with a status of 422 "
    refused += "(UNPROCESSABLE ENTITY)"
    with opened(chromium, viewport=DESK, expected=refused) as page:
        page.goto(url)
        page.click("td[data-label=Dead] a:has-text('1')")
        page.fill("input[name=error]", "sinkpermanent")
        page.click("text=Search")
        page.click("text=d1")
        assert page.locator("text=OSError: no route").is_visible()
        assert "Ann" not in page.content()
        page.click("text=Reveal")
        assert '"name": "Ann"' in page.inner_text("pre")
        page.wait_for_timeout(500)  # refreshes in between
        assert '"name": "Ann"' in page.inner_text("pre")
        page.click("text=Edit and replay")
        check(page)
        page.fill("textarea", "{")
        page.click("text=Send the edited job")
        assert page.locator("[role=alert]").inner_text().startswith("Expected JSON")
        page.fill("textarea", '{"kwargs": {"payload": {"name": "Bea"}}}')
        page.click("text=Send the edited job")
        page.wait_for_selector("text=The edited job is on its queue")
    assert (site.broker.counts("webhooks").waiting, site.broker.counts("webhooks").dead) == (1, 0)


def test_a_refresh_keeps_focus_selection_scroll_and_text(
    chromium: Browser, site: Site, url: str
) -> None:
    for number in range(60):
        site.add("webhooks", "waiting", f"w{number:02}")
    with opened(chromium, viewport=DESK) as page:
        page.goto(f"{url}/queue?name=webhooks")
        page.fill("input[name=actor]", "typed")
        page.focus("text=w40")
        page.evaluate("window.scrollTo(0, 300)")
        page.evaluate("getSelection().selectAllChildren(document.querySelector('tbody tr td'))")
        page.evaluate("document.querySelector('tbody tr').kept = 1")
        site.add("webhooks", "scheduled", "s1")
        site.broker.client.lrem(site.broker.keys.waiting("webhooks"), 1, "w10")
        site.broker.client.hdel(site.broker.keys.bodies("webhooks"), "w10")
        page.wait_for_selector("#tabs >> text=/Scheduled 1/")
        page.wait_for_selector("[data-key=w10]", state="detached")
        assert page.input_value("input[name=actor]") == "typed"
        assert page.evaluate("document.activeElement.innerText") == "w40"
        assert page.evaluate("window.scrollY") == 300
        assert page.evaluate("getSelection().toString()") == "deliver"
        assert page.evaluate("document.querySelector('tbody tr').kept") == 1
        page.click("text=Pause updates")
        site.add("webhooks", "scheduled", "s2")
        page.wait_for_timeout(600)
        assert page.locator("#tabs >> text=/Scheduled 1/").count() == 1
        page.click("text=Resume updates")
        page.wait_for_selector("#tabs >> text=/Scheduled 2/")


def test_pages_that_are_hidden_ask_nothing(chromium: Browser, site: Site, url: str) -> None:
    asked: list[str] = []
    with opened(chromium) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        wait_until(lambda: page.wait_for_timeout(50) or len(asked) > 5)
        hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        page.evaluate(hide + "document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(300)
        count = len(asked)
        page.wait_for_timeout(500)
        assert len(asked) == count
        assert not [each for each in asked if not re.match(url, each)]
