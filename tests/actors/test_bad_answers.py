"""The workers and the Django site, with a proxy between them that gives invalid answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from pydantic import SecretStr

from formrelay.core.failure import Reason
from tests.actors.conftest import Site
from tests.middleware.lines import Lines
from tests.support.certificates import Authority
from tests.support.http_proxy import HttpProxy, http_proxy
from tests.support.servers.django_site import DjangoSite
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_pauses")

AT = "2026-01-31T09:30:00Z"
SECRET = "SECRET-VALUE"
ENDPOINT = {"id": "end-1", "url": "https://example.com/1", "secret": "s"}
HELD = "pausing consumption: the API is unavailable"


@pytest.fixture(scope="module")
def django() -> Iterator[DjangoSite]:
    with DjangoSite() as django:
        yield django


@pytest.fixture
def proxy(site: Site, django: DjangoSite) -> Iterator[HttpProxy]:
    with http_proxy(django.port) as proxy:
        site.use(api={"url": proxy.url, "token": SecretStr(django.token)})
        yield proxy


@dataclass(frozen=True)
class Kind:
    """A kind of job: how to send it, and how to ask the site whether it was done."""

    queue: str
    writes: str
    send: Callable[[Site, str], None]
    found: Callable[[Any], Any]


def ask(django: DjangoSite, method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {django.token}"}
    url = f"{django.url}/api/v1/{path}"
    return requests.request(method, url, json=body, headers=headers, timeout=30).json()


def submission(id: str, status: str = "completed") -> dict[str, Any]:
    return {
        "submissionId": id,
        "formId": "bad-days",
        "status": status,
        "answers": {"name": SECRET},
        "submittedAt": AT,
    }


def send_submission(site: Site, id: str) -> None:
    site.actors.save_submission.send({**submission(id), "webhooks": [ENDPOINT]})


def send_payment(site: Site, id: str) -> None:
    site.actors.update_payment.send(
        {
            "id": f"evt_{id}",
            "type": "payment_intent.succeeded",
            "created": 10,
            "data": {"object": {"metadata": {"submissionId": id}, "email": SECRET}},
        }
    )


def send_partial(site: Site, id: str) -> None:
    site.actors.save_partial.send(
        {
            "partialId": id,
            "formId": "bad-days",
            "sessionId": id,
            "revision": 3,
            "answers": {"name": SECRET},
            "updatedAt": AT,
        }
    )


KINDS = {
    "submission": Kind("submissions", "POST", send_submission, lambda one: one["answers"]),
    "payment": Kind("submissions", "PATCH", send_payment, lambda one: one["status"]),
    "partial": Kind("partials", "PUT", send_partial, lambda one: one["revision"]),
}
EXPECTED = {"submission": {"name": SECRET}, "payment": "completed", "partial": 3}


class Jobs:
    """Jobs of one kind, sent to the site through the proxy."""

    def __init__(self, name: str, site: Site, proxy: HttpProxy, django: DjangoSite) -> None:
        self.kind, self._expected = KINDS[name], EXPECTED[name]
        self._is_payment = name == "payment"
        self._site, self._proxy, self._django = site, proxy, django
        self._path = "partials" if name == "partial" else "submissions"
        self.ids: list[str] = []

    @property
    def queue(self) -> str:
        return self.kind.queue

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            id = f"bad-{uuid4()}"
            if self._is_payment:
                ask(self._django, "POST", "submissions/", submission(id, "pending_payment"))
            self.kind.send(self._site, id)
            self.ids.append(id)

    def methods(self) -> list[str]:
        """Methods of the requests to the proxy, in order."""
        return [request.split()[0] for request in self._proxy.requests]

    def are_saved(self) -> bool:
        """Whether the site has all jobs unchanged and there is no dead letter."""
        found = [ask(self._django, "GET", f"{self._path}/{id}/") for id in self.ids]
        assert self._site.dead(self.queue) == []
        return [self.kind.found(one) for one in found] == [self._expected] * len(self.ids)


@pytest.fixture(params=KINDS)
def jobs(request: pytest.FixtureRequest, site: Site, proxy: HttpProxy, django: DjangoSite) -> Jobs:
    return Jobs(request.param, site, proxy, django)


def http(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


JSON, HTML = "Content-Type: application/json", "Content-Type: text/html; charset=utf-8"
PAGE = f"<html>Back soon, {SECRET}</html>".encode()
MAINTENANCE = http("200 OK", HTML, body=PAGE)
HALF = http("201 Created", JSON, body=b'{"id": "bad-')
ONCE = {
    "HTML": MAINTENANCE,
    "half a JSON": HALF,
    "204": http("204 No Content"),
    "10 MB": http("500 No", HTML, body=PAGE.ljust(10 << 20)),
    "shorter than it says": http("201 Created", JSON, body=b'{"id": "b"}', length=99),
    "longer than it says": http("201 Created", JSON, body=b'{"id": "b"}', length=5),
}


@pytest.mark.parametrize("name", ONCE)
def test_a_single_invalid_answer_is_retried(
    name: str, site: Site, proxy: HttpProxy, jobs: Jobs, lines: Lines
) -> None:
    proxy.answer_once(ONCE[name])
    jobs.send()
    site.work_off(jobs.queue)
    assert jobs.are_saved()
    first, second = lines.attempts()
    assert (first["outcome"], second["outcome"]) == ("retry", "done")
    assert SECRET not in lines.text
    assert site.settings.api.secret("token") not in lines.text


def test_after_a_truncated_answer_the_outcome_is_looked_up_before_a_second_write(
    site: Site, proxy: HttpProxy, jobs: Jobs
) -> None:
    proxy.answer_once(HALF, is_forwarded=True)
    jobs.send()
    site.work_off(jobs.queue)
    assert jobs.are_saved()
    # Payments and partials are idempotent, so they are written again without a look-up.
    again = "GET" if jobs.kind.writes == "POST" else jobs.kind.writes
    assert jobs.methods()[:2] == [jobs.kind.writes, again]
    assert jobs.methods().count("POST") <= 1
    assert len(site.messages("webhooks")) == (jobs.kind.writes == "POST")


def test_lasting_html_answers_make_dead_letters_with_error_and_job(
    site: Site, proxy: HttpProxy, jobs: Jobs, lines: Lines
) -> None:
    proxy.answer_all(MAINTENANCE)
    jobs.send()
    site.work_off(jobs.queue)
    (letter,) = site.dead(jobs.queue)
    assert letter.failure.reason is Reason.ATTEMPTS_EXHAUSTED
    assert letter.failure.code == 200
    assert letter.failure.message.startswith("expected JSON with 200 from the API, got text/html")
    assert SECRET not in repr(letter.failure)
    assert SECRET not in lines.text
    proxy.answer_all(None)
    assert site.broker.replay(jobs.queue, letter.message.message_id)
    site.work_off(jobs.queue)
    assert jobs.are_saved()


def pause_line(lines: Lines) -> dict[str, Any]:
    (line,) = wait_until(lambda: lines.of(HELD))
    return line


def wait_until_done(site: Site, jobs: Jobs, lines: Lines) -> None:
    """Wait until all jobs are done; no attempt was used and there was one alert only."""
    wait_until(lambda: site.is_idle(jobs.queue))
    assert jobs.are_saved()
    assert {line["attempt"] for line in lines.attempts()} == {1}
    assert len(lines.of(HELD)) == 1
    assert "Traceback" not in lines.text
    assert SECRET not in lines.text


REFUSED = {
    "a token that is refused": (http("401 No", HTML, body=PAGE), 401, "API_TOKEN"),
    "a redirect": (http("301 Moved", "Location: http://127.0.0.1:1/api"), 301, "to http,"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_answers_that_an_operator_has_to_fix_pause_the_queue_without_using_attempts(
    name: str, site: Site, proxy: HttpProxy, jobs: Jobs, lines: Lines
) -> None:
    data, code, says = REFUSED[name]
    proxy.answer_all(data)
    jobs.send(20)
    proxy.requests.clear()
    site.start(jobs.queue)
    line = pause_line(lines)
    assert (line["level"], line["sink"], line["code"]) == ("ERROR", "api", code)
    assert says in line["errorMessage"]
    # Four jobs had started; after each pause, a single job probes the API.
    wait_until(lambda: len(lines.attempts()) > 1 and site.waiting(jobs.queue))
    assert len(proxy.requests) <= 6
    proxy.answer_all(None)
    wait_until_done(site, jobs, lines)


def test_an_expired_certificate_pauses_the_queue_until_it_is_renewed(
    site: Site,
    proxy: HttpProxy,
    django: DjangoSite,
    jobs: Jobs,
    lines: Lines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", os.fspath(authority.certificate))
    proxy.tls = authority.server_side("expired", ends=-timedelta(hours=1))
    site.use(api={"url": proxy.url, "token": SecretStr(django.token)})
    jobs.send(5)
    site.start(jobs.queue)
    line = pause_line(lines)
    assert (line["level"], line["sink"]) == ("ERROR", "api")
    assert "certificate has expired" in line["errorMessage"]
    assert proxy.requests == []
    proxy.tls = authority.server_side("renewed")
    wait_until_done(site, jobs, lines)
