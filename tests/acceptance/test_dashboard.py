"""The dashboard in Debian's Chromium: operators find, read and replay dead letters."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest
import waitress

from formrelay.actors.webhooks.registry import DeliveryReport, DisableRules
from formrelay.actors.webhooks.resources import make_registry
from formrelay.brokers import BrokerOptions, RelayBroker
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import SinkPermanent
from formrelay.ops import audit
from formrelay.ops.dashboard import make_app
from formrelay.ops.dashboard.access import Role, TokenAccess
from formrelay.ops.dashboard.tasks import Tasks
from formrelay.state import make_suppressions
from formrelay.state.suppressions import Suppression, SuppressionReason
from tests.ops.dashboard.conftest import HOSTILE
from tests.state.stores import state_of
from tests.support.browser import browser
from tests.support.harness import Harness
from tests.support.waiting import wait_until
from tests.support.watched import follow, new_page, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.shared_vhost

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2
TOKENS = {Role.OPERATOR: "operator-token-1234", Role.READ_ONLY: "read-only-token-1234"}


class Site:
    """A dashboard, a broker, and an actor that fails until it is mended."""

    def __init__(self, broker: RelayBroker, queue: str) -> None:
        self.harness = Harness(broker, queue)
        self.broker, self.queue = broker, queue
        self.says = "the endpoint answered 410 to delivery"
        self.is_mended = False
        self.runs: Counter[str] = Counter()
        self.actor = self.harness.actor(self._run, actor_name="deliver")
        self.tasks = Tasks()
        access = TokenAccess(lambda: TOKENS)
        self.app = make_app(lambda: broker, access=access, tasks=self.tasks)

    def _run(self, name: str) -> None:
        self.runs[name] += 1
        if not self.is_mended:
            try:
                raise ConnectionResetError
            except ConnectionResetError as error:
                raise SinkPermanent(f"{self.says} {len(name)}") from error

    def bury(self, *names: str) -> None:
        """Let the actor fail for each name, then mend it."""
        for name in names:
            self.actor.send(name)
        self.harness.start()
        wait_until(lambda: self.broker.inspector.counts(self.queue).dead == len(names))
        self.is_mended = True
        self.runs.clear()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def site(request: pytest.FixtureRequest, unique: str) -> Iterator[Site]:
    url = request.getfixturevalue(f"{request.param}_url")
    kind: Any = RedisBroker if request.param == "redis" else RabbitBroker
    broker = kind(url, options=BrokerOptions())
    if request.param == "redis":
        broker.state = state_of(url)
    audit._memory_log.cache_clear()  # without a shared store, the log of earlier tests
    site = Site(broker, unique)
    yield site
    site.tasks.stop()
    site.harness.close()


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    server = waitress.create_server(site.app, host="127.0.0.1", port=0, threads=4)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{server.effective_port}"
    server.trigger.pull_trigger(server.close)
    thread.join()


class Operators:
    """Logs operators in, each with a browser context of their own."""

    def __init__(self, chromium: Browser, address: str) -> None:
        self._chromium, self._address = chromium, address
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    def __call__(self, name: str, **options: Any) -> Page:
        """The overview, after a login."""
        context = self._chromium.new_context(base_url=self._address, **options)
        self.contexts.append(context)
        page = new_page(context, self.problems)
        page.set_default_timeout(20_000)
        page.goto("/")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Token").fill(TOKENS[Role.OPERATOR])
        follow(page.get_by_role("button", name="Log in"))
        page.get_by_role("heading", name="Overview").wait_for()
        return page


@pytest.fixture
def operators(chromium: Browser, address: str) -> Iterator[Operators]:
    """Any error of a page fails the test."""
    found = Operators(chromium, address)
    yield found
    for context in found.contexts:  # before the server, which waits for its connections
        context.close()
    assert found.problems == []


def test_an_operator_finds_a_dead_letter_reads_its_cause_replays_it_and_sees_it_done(
    site: Site, operators: Operators
) -> None:
    site.bury("one", "another")
    page = operators("ann")
    follow(page.get_by_role("link", name="Dead letters"))
    group = page.get_by_role("row").filter(has_text="SinkPermanent")
    assert "the endpoint answered <number> to delivery <number>" in group.inner_text()
    follow(group.get_by_role("link"))
    letters = page.locator("#letters tbody tr")
    assert letters.count() == 2

    id = letters.first.get_by_role("link").inner_text()
    follow(letters.first.get_by_role("link"))
    text = page.locator("#failure").inner_text()
    assert "the endpoint answered 410" in text
    assert "ConnectionResetError" in text
    page.go_back()

    page.get_by_label(f"Select {id}").check()
    follow(page.get_by_role("button", name="Replay selected"))
    page.get_by_role("heading", name="Replay 1 dead letter?").wait_for()
    assert id in page.locator("main").inner_text()
    follow(page.get_by_role("button", name="Replay 1 dead letter"))
    page.get_by_text("1 replayed").wait_for()
    assert "by ann" in page.locator("#task").inner_text()
    wait_until(lambda: site.runs.total() == 1)
    assert site.broker.inspector.counts(site.queue).dead == 1

    follow(page.get_by_role("link", name="Audit"))
    entry = page.get_by_role("row").filter(has_text="dlq replay").inner_text()
    assert "ann" in entry
    assert id in entry


def test_two_operators_who_replay_the_same_group_run_each_job_once(
    site: Site, operators: Operators
) -> None:
    site.bury(*map(str, range(30)))
    pages = [operators(name) for name in ("ann", "bob")]
    for page in pages:  # both are asked before one of them goes on
        page.goto("/dead")
        group = page.get_by_role("row").filter(has_text="SinkPermanent")
        follow(group.get_by_role("button", name="Replay"))
        page.get_by_role("heading", name="Replay 30 dead letters?").wait_for()
    for page in pages:
        follow(page.get_by_role("button", name="Replay 30 dead letters"))
    for page in pages:
        page.get_by_text("Ended").wait_for()
    wait_until(lambda: site.runs.total() == 30)
    assert set(site.runs.values()) == {1}
    pages[1].goto("/tasks")
    tasks = pages[1].locator("#tasks tbody").inner_text()
    assert "by ann" in tasks
    assert "by bob" in tasks


@pytest.mark.parametrize("site", [pytest.param("redis", marks=pytest.mark.redis)], indirect=True)
def test_pages_with_hostile_texts_are_accessible_and_fit_the_screen(
    site: Site, operators: Operators
) -> None:
    def check(width: int, colours: Literal["light", "dark"]) -> None:
        page.emulate_media(color_scheme=colours)
        for each in (1655 - width, width):
            page.set_viewport_size({"width": each, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= each, page.url
        assert violations(page) == [], page.url

    site.says = HOSTILE + LONG
    site.bury(HOSTILE + LONG)
    _fill(site)
    page = operators(LONG[:60])
    page.goto("/dead")
    check(375, "dark")
    follow(page.get_by_role("row").filter(has_text="SinkPermanent").get_by_role("link"))
    check(375, "light")
    follow(page.get_by_role("button", name="Delete the whole group"))
    check(1280, "dark")
    follow(page.get_by_role("button", name="Delete 1 dead letter"))
    page.get_by_text("1 deleted").wait_for()
    check(375, "light")
    for path in ("/tasks", "/webhooks", "/email", "/audit"):
        page.goto(path)
        check(375, "dark")


def _fill(site: Site) -> None:
    """An endpoint that fails, and a suppressed address."""
    now = site.broker.clock.time()
    report = DeliveryReport(HOSTILE, LONG, False, 7, now - 60, now, 503, open_until=now + 60)
    make_registry(site.broker.state).report([report], DisableRules())
    entry = Suppression(f"{LONG.lower()[:60]}@one.example", SuppressionReason.COMPLAINT)
    make_suppressions(site.broker.state).add([entry])
