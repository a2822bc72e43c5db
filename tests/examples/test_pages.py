"""The pages of examples/django_site: answers are enqueued once, when they are committed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import redis
import requests

from tests.support.browser import browser
from tests.support.servers import RedisServer
from tests.support.servers.django_site import DjangoSite
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUESTIONS = [
    "name",
    {"name": "size", "label": "Which size?", "options": ["S", "M", "L"]},
    {"name": "story", "label": "Your <story>", "kind": "textarea", "required": True},
    {"name": "a.b c", "kind": "number"},
    17,
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(server: RedisServer) -> Iterator[DjangoSite]:
    with DjangoSite(REDIS_URL=server.url, BROKER_CONNECT_TIMEOUT_SECONDS="1") as site:
        site.call("make_form", "signup", "Sign <up>", QUESTIONS)
        site.call("make_form", "api-only")
        yield site


@pytest.fixture
def client(server: RedisServer) -> Any:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    return client


@pytest.fixture
def site(running: DjangoSite, client: Any) -> DjangoSite:
    return running


def jobs(client: Any, queue: str) -> list[dict[str, Any]]:
    """Payloads of the waiting jobs of a queue, in order."""
    bodies = [
        client.hget(f"dramatiq:{queue}.msgs", id)
        for id in client.lrange(f"dramatiq:{queue}", 0, -1)
    ]
    return [json.loads(body)["kwargs"]["payload"] for body in bodies]


def events(client: Any) -> list[str]:
    return [event["type"] for payload in jobs(client, "events") for event in payload]


class Visitor:
    """A visitor without JavaScript."""

    def __init__(self, site: DjangoSite, form: str = "signup") -> None:
        self.session = requests.Session()
        self.url = f"{site.url}/f/{form}/"
        self.page = self.session.get(self.url, timeout=30)
        fields = dict(
            re.findall(r'name="(csrfmiddlewaretoken|entry)" value="([^"]+)"', self.page.text)
        )
        self.token, self.entry = fields["csrfmiddlewaretoken"], fields["entry"]

    def send(self, **answers: str) -> requests.Response:
        data = {"csrfmiddlewaretoken": self.token, "entry": self.entry, "story": "s", **answers}
        return self.session.post(self.url, data=data, timeout=30, allow_redirects=False)

    def autosave(self, answers: Any, **more: Any) -> requests.Response:
        body = {"entry": self.entry, "answers": answers, **more}
        headers = {"X-CSRFToken": self.token}
        return self.session.post(f"{self.url}autosave/", json=body, headers=headers, timeout=30)


def test_sending_a_form_enqueues_a_submission_and_its_events(site: DjangoSite, client: Any) -> None:
    visitor = Visitor(site)
    assert "Sign &lt;up&gt;" in visitor.page.text
    assert "Your &lt;story&gt;" in visitor.page.text
    answer = visitor.send(name="Ann", size="M", **{"a.b c": "1.5"}, unasked="x", story="é\r\n🎈")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/f/signup/thanks/")
    (submission,) = jobs(client, "submissions")
    assert submission["submissionId"] == f"sub-{visitor.entry}"
    assert submission["answers"] == {
        "name": "Ann",
        "size": "M",
        "story": "é\n🎈",
        "a.b c": "1.5",
    }
    assert events(client) == ["form_viewed", "form_submitted"]


def test_sending_a_form_twice_enqueues_one_submission(site: DjangoSite, client: Any) -> None:
    visitor = Visitor(site)
    assert [visitor.send().status_code for _ in range(3)] == [302] * 3
    assert len(jobs(client, "submissions")) == 1
    assert visitor.autosave({"name": "late"}).status_code == 409
    assert jobs(client, "partials") == []


def test_a_missing_required_answer_shows_the_form_again_with_all_answers(
    site: DjangoSite, client: Any
) -> None:
    answer = Visitor(site).send(name="Ann", story="")
    assert answer.status_code == 400
    assert "Please answer “Your &lt;story&gt;”." in answer.text
    assert 'value="Ann"' in answer.text
    assert jobs(client, "submissions") == []


def test_autosaves_have_increasing_revisions_and_the_first_is_the_start_event(
    site: DjangoSite, client: Any
) -> None:
    visitor = Visitor(site)
    for number in range(1, 4):
        answer = visitor.autosave({"name": "A" * number, "size": "", "story": 5, "x": "y"})
        assert (answer.status_code, answer.json()) == (200, {"revision": number})
    saved = jobs(client, "partials")
    assert [(one["revision"], one["answers"]) for one in saved] == [
        (1, {"name": "A"}),
        (2, {"name": "AA"}),
        (3, {"name": "AAA"}),
    ]
    assert {one["partialId"] for one in saved} == {f"par-{visitor.entry}"}
    assert events(client) == ["form_viewed", "form_started"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"entry": "x", "answers": {}}',
        b'{"answers": {}}',
        b'{"entry": "6d0f7b5e-6f0e-4a63-9f0b-0d6f4c1f2a11", "answers": []}',
        b"\xff",
    ],
    ids=repr,
)
def test_an_invalid_autosave_is_an_error_and_uses_no_revision(
    site: DjangoSite, client: Any, body: bytes
) -> None:
    visitor = Visitor(site)
    headers = {"X-CSRFToken": visitor.token, "Content-Type": "application/json"}
    answer = visitor.session.post(f"{visitor.url}autosave/", data=body, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]
    assert jobs(client, "partials") == []


def test_an_autosave_that_cannot_be_enqueued_uses_no_revision(
    site: DjangoSite, client: Any
) -> None:
    visitor = Visitor(site)
    answer = visitor.autosave({"name": "\ud800"})
    assert answer.status_code == 400
    # The transaction was rolled back, including the revision.
    assert visitor.autosave({"name": "A"}).json() == {"revision": 1}
    assert [one["revision"] for one in jobs(client, "partials")] == [1]
    assert events(client) == ["form_viewed", "form_started"]


def test_an_entry_of_another_form_is_refused(site: DjangoSite, client: Any) -> None:
    site.call("make_form", "other", "", ["name"])
    visitor, other = Visitor(site), Visitor(site, "other")
    visitor.autosave({"name": "A"})
    other.entry = visitor.entry
    assert other.autosave({"name": "B"}).status_code == 409
    assert [one["formId"] for one in jobs(client, "partials")] == ["signup"]


def test_an_unavailable_broker_is_an_error_and_the_form_can_be_sent_again(
    site: DjangoSite, server: RedisServer, client: Any
) -> None:
    visitor = Visitor(site)
    server.kill()
    assert requests.get(visitor.url, timeout=30).status_code == 200
    answer = visitor.send(name="Ann")
    assert answer.status_code == 503
    assert "please try again" in answer.text
    assert 'value="Ann"' in answer.text
    assert visitor.autosave({"name": "A"}).status_code == 503
    server.start()
    wait_until(lambda: visitor.send(name="Ann").status_code == 302)
    (submission,) = jobs(client, "submissions")
    assert submission["answers"]["name"] == "Ann"


def test_only_forms_with_questions_have_a_page(site: DjangoSite) -> None:
    index = requests.get(site.url, timeout=30).text
    assert "/f/signup/" in index
    assert "api-only" not in index
    assert requests.get(f"{site.url}/f/api-only/", timeout=30).status_code == 404
    assert requests.get(f"{site.url}/f/none/", timeout=30).status_code == 404


def test_a_page_of_another_site_cannot_send_a_form(site: DjangoSite, client: Any) -> None:
    visitor = Visitor(site)
    visitor.token = "x" * 64
    assert visitor.send().status_code == 403
    assert visitor.autosave({"name": "A"}).status_code == 403
    assert jobs(client, "submissions") == jobs(client, "partials") == []


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as found:
        yield found.new_page()


def test_a_browser_autosaves_while_typing_and_when_the_page_is_left(
    site: DjangoSite, client: Any, page: Page
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site.url}/f/signup/")
    page.get_by_label("name").fill("Ann")
    page.get_by_label("Which size?").select_option("M")
    page.get_by_text("Saved.").wait_for()
    (first,) = jobs(client, "partials")
    assert first["answers"] == {"name": "Ann", "size": "M"}
    page.get_by_label("Your <story>").fill("half a sto")
    page.goto(f"{site.url}/")  # within a second
    wait_until(lambda: len(jobs(client, "partials")) == 2)
    assert jobs(client, "partials")[1]["answers"]["story"] == "half a sto"
    page.go_back()
    page.get_by_label("Your <story>").fill("a story")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="Thank you").wait_for()
    (submission,) = jobs(client, "submissions")
    assert submission["answers"]["story"] == "a story"
    assert errors == []


def test_a_browser_shows_that_answers_are_not_saved_and_saves_them_later(
    site: DjangoSite, server: RedisServer, client: Any, page: Page
) -> None:
    page.goto(f"{site.url}/f/signup/")
    server.kill()
    page.get_by_label("name").fill("Ann")
    page.get_by_text("Not saved yet.").wait_for()
    server.start()
    page.get_by_text("Saved.", exact=True).wait_for()
    assert jobs(client, "partials")[-1]["answers"] == {"name": "Ann"}
