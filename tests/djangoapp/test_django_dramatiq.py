"""formrelay together with django-dramatiq, which has its own broker and tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from formrelay.brokers import get_broker
from formrelay.core.errors import ConfigError
from tests.djangoapp.host import Host
from tests.djangoapp.test_worker import worker
from tests.support.waiting import wait_until

pytest.importorskip("django_dramatiq", reason="pip install django-dramatiq")

STUB = {"BROKER": "dramatiq.brokers.stub.StubBroker", "OPTIONS": {}, "MIDDLEWARE": []}


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["listed before", "listed behind"])
def test_each_broker_keeps_its_own_actors(tmp_path: Path, redis_url: str, first: bool) -> None:
    apps = ["mixed", "django_dramatiq"]
    settings: dict[str, Any] = {
        "FORMRELAY": {"REDIS_URL": redis_url},
        "DRAMATIQ_BROKER": STUB,
        "FIRST_APPS" if first else "LAST_APPS": apps,
    }
    host = Host(tmp_path, settings=settings)
    host.migrate()
    assert host.call("two_brokers.send") == ["StubBroker", True, True, True, 1, 1, 1]
    # The worker runs formrelay's jobs and ignores django-dramatiq's broker.
    with worker(host, "--queue", "ours", "--processes", "1", "--threads", "1"):
        wait_until(lambda: host.notes() == [("b", True)])
    assert host.manage("makemigrations", "--check", "--dry-run").returncode == 0


def test_rundramatiq_imports_no_tasks_api(tmp_path: Path) -> None:
    settings = {"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}}
    theirs = {"DRAMATIQ_BROKER": STUB, "LAST_APPS": ["django_dramatiq"]}
    host = Host(tmp_path, settings=settings | theirs)
    assert host.call("discovering.of_rundramatiq") == [["formrelay.djangoapp.tasks"], []]


#: The MIDDLEWARE of django-dramatiq's documentation.
MIDDLEWARE = [
    "dramatiq.middleware.AgeLimit",
    "dramatiq.middleware.TimeLimit",
    "dramatiq.middleware.Callbacks",
    "dramatiq.middleware.Retries",
    "django_dramatiq.middleware.DbConnectionsMiddleware",
    "django_dramatiq.middleware.AdminMiddleware",
]


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["listed before", "listed behind"])
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_its_tasks_can_run_on_our_broker(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, first: bool
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    settings: dict[str, Any] = {
        "FORMRELAY": {f"{kind.upper()}_URL": url},
        "DRAMATIQ_BROKER": {
            "BROKER": "formrelay.djangoapp.dramatiq_broker",
            "MIDDLEWARE": MIDDLEWARE,
        },
        "FIRST_APPS" if first else "LAST_APPS": ["mixed", "django_dramatiq"],
    }
    host = Host(tmp_path, settings=settings)
    host.migrate()
    # Dramatiq's Retries gives its default of 20 retries to tasks without one of their own.
    assert host.call("one_broker.send_and_run") == [True, True, 1, 1, [1, 0, 1, 1], 21]


def test_options_of_a_broker_of_the_environment_are_refused() -> None:
    with pytest.raises(ConfigError, match="got url"):
        get_broker(middleware=[], url="redis://127.0.0.1")
