"""``/api/v1/workers/health`` of the dashboard."""

from __future__ import annotations

from typing import Any

import pytest

from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.ops.dashboard.access import Role
from tests.ops.dashboard.conftest import Site
from tests.ops.dashboard.helpers import add_worker

HEALTH = "/api/v1/workers/health"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")


def test_with_a_login_it_tells_what_does_not_work(site: Site) -> None:
    site.add("other", "waiting", "w1")
    add_worker(site, "w1", "webhooks")
    found: Any = site.client.get(HEALTH).json
    assert found["status"] == "degraded"
    assert [each["state"] for each in found["workers"]] == ["ok"]
    (problem,) = found["problems"]
    assert (problem["kind"], problem["queue"]) == ("no_worker", "other")
    read = {each["queue"]: each["has_worker"] for each in found["queues"]}
    assert (read["webhooks"], read["other"]) == (True, False)


def test_without_a_login_it_tells_whether_the_broker_answers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = site.with_tokens().get(HEALTH)
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert answer.headers["Cache-Control"] == "no-store"

    def fail(*arguments: Any) -> Any:
        raise BrokerUnavailable("it is away")

    monkeypatch.setattr(type(site.broker.inspector), "counts_of", fail)
    answer = site.with_tokens().get(HEALTH)
    assert (answer.status_code, answer.json) == (503, {"status": "down"})
    found: Any = site.with_tokens(Role.READ_ONLY).get(HEALTH)
    assert (found.status_code, found.json["status"], found.json["workers"]) == (503, "down", None)
    assert "it is away" in found.json["error"]
