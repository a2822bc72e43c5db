"""The API of examples/django_site: duplicate, late and concurrent requests are applied once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from tests.conftest import own
from tests.support.servers import PostgresServer
from tests.support.servers.django_site import DjangoSite

AT = "2026-01-31T09:30:00Z"


class Client:
    """A client of the API."""

    def __init__(self, site: DjangoSite) -> None:
        self.site = site
        self.headers = {"Authorization": f"Bearer {site.token}"}

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        url = f"{self.site.url}/api/v1/{path}"
        return requests.request(method, url, headers=headers, timeout=30, **options)

    def save(self, id: str, **changes: Any) -> requests.Response:
        data = {
            "submissionId": id,
            "formId": "form-1",
            "status": "completed",
            "answers": {"näme": "Ann", "n": None},
            "submittedAt": AT,
        } | changes
        return self("POST", "submissions/", json=data, headers={"Idempotency-Key": id})

    def autosave(self, id: str, revision: int, **changes: Any) -> requests.Response:
        data = {
            "formId": "form-1",
            "sessionId": "session-1",
            "revision": revision,
            "answers": {"n": revision},
            "updatedAt": AT,
        } | changes
        return self("PUT", f"partials/{id}/", json=data)

    def pay(self, id: str, status: str, created: int) -> requests.Response:
        event = {"status": status, "eventId": f"evt_{created}", "created": created}
        return self("PATCH", f"submissions/{id}/payment/", json=event)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest) -> Iterator[DjangoSite]:
    with ExitStack() as ends:
        variables = {}
        if request.param == "postgres":
            variables["DATABASE_URL"] = ends.enter_context(own(PostgresServer)).url
        yield ends.enter_context(DjangoSite(**variables))


@pytest.fixture
def api(site: DjangoSite) -> Client:
    return Client(site)


def test_requests_without_a_valid_token_are_refused(api: Client) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        answer = api("GET", "submissions/", headers=headers)
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_a_token_created_in_the_admin_is_valid_until_it_is_disabled(
    site: DjangoSite, api: Client
) -> None:
    token = site.call("make_token")
    headers = {"Authorization": f"Bearer {token}"}
    assert api("GET", "submissions/", headers=headers).status_code == 200
    site.call("disable_tokens")
    assert api("GET", "submissions/", headers=headers).status_code == 401


def test_a_submission_is_saved_once_for_its_idempotency_key(api: Client) -> None:
    first, again = api.save("once"), api.save("once")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["status"] == "completed"
    assert api.save("once", answers={"name": "Bob"}).status_code == 409
    listed = api("GET", "submissions/", params={"formId": "form-1"}).json()
    (one,) = [found for found in listed["results"] if found["id"] == "once"]
    assert one["answers"] == {"näme": "Ann", "n": None}


def test_of_concurrent_requests_one_saves_the_submission(api: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.save("race").status_code, range(16)))
    assert sorted(answers) == [200] * 15 + [201]


def test_lists_are_paginated(api: Client) -> None:
    for number in range(105):
        assert api.save(f"page-{number}", formId="paged").status_code == 201
    first = api("GET", "submissions/", params={"formId": "paged"}).json()
    assert (first["count"], len(first["results"])) == (105, 100)
    rest = requests.get(first["next"], headers=api.headers, timeout=30).json()
    assert (len(rest["results"]), rest["next"]) == (5, None)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"formId": ""}, "formId"),
    ({"status": "done"}, "status"),
    ({"answers": []}, "answers"),
    ({"submittedAt": "yesterday"}, "submittedAt"),
    ({"submittedAt": "2026-01-31T09:30:00"}, "submittedAt"),
]


@pytest.mark.parametrize(("changes", "field"), BAD, ids=lambda one: str(one))
def test_validation_errors_name_the_field(api: Client, changes: dict[str, Any], field: str) -> None:
    answer = api.save("bad", **changes)
    assert answer.status_code == 400
    assert set(answer.json()["errors"]) == {field}


def test_a_body_that_is_not_json_is_an_error(api: Client) -> None:
    for body in (b"{", b"[]", b"\xff", b"[" * 100_000):
        answer = api("POST", "submissions/", data=body)
        assert (answer.status_code, set(answer.json()["errors"])) == (400, {"body"})


@pytest.mark.parametrize(
    "order", [[1, 2, 3], [3, 2, 1], [2, 3, 1, 2], [1, 3, 3, 2]], ids=lambda one: str(one)
)
def test_the_newest_payment_event_wins_in_any_order(api: Client, order: list[int]) -> None:
    id = "paid-" + "".join(map(str, order))
    assert api.save(id, status="pending_payment").status_code == 201
    says = {1: "payment_failed", 2: "completed", 3: "refunded"}
    for created in order:
        assert api.pay(id, says[created], created).status_code == 200
    assert api("GET", f"submissions/{id}/").json()["status"] == "refunded"
    # A repetition of the first request still returns this submission.
    assert api.save(id, status="pending_payment").json()["status"] == "refunded"


def test_of_two_payment_events_in_one_second_the_later_status_wins(api: Client) -> None:
    for order in (["payment_failed", "completed"], ["completed", "payment_failed"]):
        id = f"second-{order[0]}"
        api.save(id, status="pending_payment")
        for status in order:
            api.pay(id, status, 5)
        assert api("GET", f"submissions/{id}/").json()["status"] == "completed"


def test_a_payment_without_a_submission_is_not_found(api: Client) -> None:
    assert api.pay("nobody", "completed", 1).status_code == 404


def test_the_newest_revision_of_a_partial_wins(api: Client) -> None:
    answers = [api.autosave("p", revision).status_code for revision in (3, 3, 1, 7, 5)]
    assert answers == [200, 200, 409, 200, 409]
    assert api("GET", "partials/p/").json()["answers"] == {"n": 7}
    assert api("GET", "partials/nobody/").status_code == 404


def test_of_concurrent_revisions_the_newest_wins(api: Client) -> None:
    revisions = [n * 7 % 40 for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: api.autosave("many", n).status_code, revisions))
    assert set(answers) <= {200, 409}
    assert api("GET", "partials/many/").json()["revision"] == 39


def test_endpoints_of_a_form_are_replaced_as_a_list_and_returned_with_submissions(
    api: Client,
) -> None:
    endpoints = [
        {"id": "a", "url": "https://a.example/", "secret": "s", "method": "PUT", "headers": {}},
        {"url": "https://b.example/", "secret": "t"},
    ]
    answer = api("PUT", "forms/hooked/webhooks/", json=endpoints)
    assert answer.status_code == 200
    assert [one["id"] for one in answer.json()] == ["a", "endpoint-2"]
    assert api.save("hooked-1", formId="hooked").json()["webhooks"] == answer.json()
    assert api("PUT", "forms/hooked/webhooks/", json=[]).json() == []
    bad = api("PUT", "forms/hooked/webhooks/", json=[{"url": "https://a.example/"}])
    assert (bad.status_code, set(bad.json()["errors"])) == (400, {"0"})


@pytest.mark.parametrize(
    "answers",
    [r'{"a": "b\u0000c"}', r'{"a\u0000": 1}', r'{"a": ["\ud800"]}', '{"a": NaN}', '{"a": 1e999}'],
)
def test_values_that_databases_cannot_store_are_refused_with_the_question(
    api: Client, answers: str
) -> None:
    rest = {"submissionId": "odd", "formId": "f", "status": "completed", "submittedAt": AT}
    body = f'{json.dumps(rest)[:-1]}, "answers": {answers}}}'
    answer = api("POST", "submissions/", data=body, headers={"Idempotency-Key": "odd"})
    assert answer.status_code == 400
    assert api("GET", "submissions/odd/").status_code == 404


def test_an_escaped_backslash_before_u0000_is_stored(api: Client) -> None:
    odd = {"a": "\\u0000", "b\\\\u0000": "\\\\\\u0000", "n": 2**80, "f": -0.5, "e": "\x01\x7f"}
    assert api.save("backslashes", answers=odd).status_code == 201
    assert api("GET", "submissions/backslashes/").json()["answers"] == odd
