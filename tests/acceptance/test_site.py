"""End to end: a browser, the Django site, workers, ClickHouse and a receiver of webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import requests
import standardwebhooks

from formrelay.sinks.clickhouse import ClickHouse
from tests.actors.receiver import Answer, Receiver, receiving
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.support.browser import browser
from tests.support.command import run_python, start_python
from tests.support.servers import RedisServer
from tests.support.servers.django_site import SITE, DjangoSite
from tests.support.waiting import wait_until

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
QUESTIONS = [{"name": "name", "label": "Your name"}, {"name": "why", "kind": "textarea"}]


class Place:
    """The site, its broker, its workers and its ClickHouse."""

    def __init__(self, site: DjangoSite, clickhouse: ClickHouse) -> None:
        self.site = site
        self.clickhouse = clickhouse
        # Workers and site have the same settings.
        self.env = site.env(API_URL=site.url)

    def run(self, *command: str) -> None:
        run_python(*command, env=self.env, cwd=self.site.data_dir).check_returncode()

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Run workers until the end of the block, and check their exit status."""
        command = (str(SITE / "manage.py"), "formrelay_worker")
        folder = self.site.data_dir
        log = folder / "workers.log"
        process = start_python(*command, env=self.env, cwd=folder, log=log, may_exec=True)
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(60) == 0, log.read_text()

    def api(self, method: str, path: str, body: Any = None) -> requests.Response:
        url, headers = (
            f"{self.site.url}/api/v1/{path}",
            {"Authorization": f"Bearer {self.site.token}"},
        )
        return requests.request(method, url, json=body, headers=headers, timeout=30)

    def events(self) -> dict[str, int]:
        question = "SELECT type, count() FROM events_once GROUP BY type"
        return {str(type): int(count) for type, count in self.clickhouse.query(question)}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        receiver.answers("/hook", then=Answer(204))
        yield receiver


@pytest.fixture
def place(clickhouse_url: str, clickhouse_database: str) -> Iterator[Place]:
    with RedisServer() as redis:
        variables = {
            "REDIS_URL": redis.url,
            "CLICKHOUSE_URL": clickhouse_url,
            "CLICKHOUSE_DATABASE": clickhouse_database,
            "WEBHOOK_ALLOW_HTTP": "true",
            "WEBHOOK_ALLOWED_PRIVATE_CIDRS": "127.0.0.0/8",
        }
        with DjangoSite(**variables) as site:
            site.call("make_form", "signup", "Sign up", QUESTIONS)
            client = open_clickhouse(
                clickhouse_url, clickhouse_database, connect_timeout=timedelta(seconds=5)
            )
            place = Place(site, client)
            place.run("-m", "formrelay", "migrate")
            yield place
            client.close()


@pytest.mark.slow
def test_answers_typed_in_a_browser_arrive_everywhere_once(
    place: Place, receiver: Receiver
) -> None:
    endpoint = {"id": "e1", "url": f"{receiver.url}/hook", "secret": KEY, "method": "POST"}
    assert place.api("PUT", "forms/signup/webhooks/", [endpoint | {"headers": {}}]).ok
    with place.workers(), browser() as chromium:
        page = chromium.new_page()
        page.goto(f"{place.site.url}/f/signup/")
        page.get_by_label("Your name").fill("Ann")
        page.get_by_text("Saved.").wait_for()
        entry = page.locator("input[name=entry]").input_value()
        partial = wait_until(
            lambda: found if (found := place.api("GET", f"partials/par-{entry}/")).ok else None
        ).json()
        assert (partial["revision"], partial["answers"]) == (1, {"name": "Ann"})
        page.get_by_label("why").fill("I like\nforms 🎈")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("heading", name="Thank you").wait_for()
        saved = wait_until(
            lambda: found if (found := place.api("GET", f"submissions/sub-{entry}/")).ok else None
        ).json()
        assert saved["answers"] == {"name": "Ann", "why": "I like\nforms 🎈"}
        (webhook,) = wait_until(lambda: receiver.of("/hook"))
        body = standardwebhooks.Webhook(KEY).verify(webhook.body, webhook.headers)
        assert body["data"]["submissionId"] == f"sub-{entry}"
        wanted = {"form_viewed": 1, "form_started": 1, "form_submitted": 1, "partial_saved": 1}
        wait_until(lambda: place.events() == wanted)
        health = requests.get(f"{place.site.url}/api/v1/workers/health", timeout=30)
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert place.api("GET", "submissions/?formId=signup").json()["count"] == 1
    assert len(receiver.of("/hook")) == 1
