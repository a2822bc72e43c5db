"""A worker is killed and the API restarts: each submission is saved once and has its webhook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.actors.receiver import receiving
from tests.faults.workers import Workers, kill
from tests.support.brokers import BROKERS
from tests.support.servers.django_site import DjangoSite
from tests.support.waiting import wait_until

COUNT = 400


@pytest.fixture
def django() -> Iterator[DjangoSite]:
    with DjangoSite() as django:
        yield django


def ask(django: DjangoSite, method: str, path: str, body: object = None) -> object:
    headers = {"Authorization": f"Bearer {django.token}"}
    url = f"{django.url}/api/v1/{path}"
    answer = requests.request(method, url, json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


def saved(django: DjangoSite) -> int:
    found = ask(django, "GET", "submissions/?formId=form-1")
    assert isinstance(found, dict)
    return int(found["count"])


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_each_submission_is_saved_once_and_sent_to_each_endpoint(
    request: pytest.FixtureRequest, tmp_path: Path, django: DjangoSite, broker: str
) -> None:
    workers = Workers(
        tmp_path,
        request.getfixturevalue(broker),
        "SUBMISSION_QUEUE",
        "WEBHOOK_QUEUE",
        API_URL=django.url,
        API_TOKEN=django.token,
        WORKER_CONCURRENCY="8",
        WEBHOOK_ALLOW_HTTP="true",
        WEBHOOK_ALLOWED_PRIVATE_CIDRS="127.0.0.0/8",
        WEBHOOK_DELIVERY_LOG="false",
    )
    with receiving() as receiver:
        endpoints = [{"id": id, "url": f"{receiver.url}/{id}", "secret": "s"} for id in "ab"]
        ask(django, "PUT", "forms/form-1/webhooks/", endpoints)
        workers.send("submissions", "form-1", str(COUNT))
        with workers.one() as first, workers.one():
            wait_until(lambda: saved(django) >= COUNT // 5, every=0.1)
            kill(first)
            wait_until(lambda: saved(django) >= COUNT // 3, every=0.1)
            django.kill()
            django.start()
            assert saved(django) < COUNT, "the API was restarted too late"
            wait_until(lambda: saved(django) == COUNT, timeout=90, every=0.2)
            heard: dict[str, Counter[str]] = {}

            def all_heard() -> bool:
                for id in "ab":
                    heard[id] = Counter(one.headers["webhook-id"] for one in receiver.of(f"/{id}"))
                return all(len(its) == COUNT for its in heard.values())

            wait_until(all_heard)
    assert saved(django) == COUNT
    # Counted by webhook-id: webhooks in flight on the killed worker may have been sent twice.
    assert not heard["a"].keys() & heard["b"].keys()
    for its in heard.values():
        assert sum(its.values()) - COUNT <= 48
