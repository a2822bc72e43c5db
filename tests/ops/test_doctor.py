"""``formrelay doctor``: weaknesses with advice; exit status 1 for errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.command import run
from tests.support.servers import RedisServer


def findings(tmp_path: Path, status: int, **env: str) -> dict[tuple[str, str], str]:
    done = run("doctor", "--json", cwd=tmp_path, env=env)
    assert done.returncode == status, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return {(one["what"], one["state"]): one["says"] for one in found}


def test_the_embedded_default_is_fine(tmp_path: Path) -> None:
    found = findings(tmp_path, 0, BROKER="embedded", API_URL="https://forms.example")
    says = "embedded answers; jobs can be sent, fetched and settled"
    assert found["broker", "ok"] == says
    assert ("broker", "weak") not in found
    assert found["clickhouse", "ok"].startswith("version ")
    assert "API_TOKEN is not set" in found["api", "weak"]
    assert ("monitoring", "weak") not in found


def test_a_setting_of_a_part_that_is_coming_is_reported(tmp_path: Path) -> None:
    found = findings(tmp_path, 0, BROKER="embedded", WORKER_MONITORING_ENABLED="true")
    assert "coming" in found["monitoring", "weak"]


@pytest.mark.redis
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}, "set it to noeviction"),
        ({"appendonly": "no"}, "appendonly is off"),
    ],
)
def test_a_redis_that_may_lose_jobs_is_reported(
    tmp_path: Path, redis_server: RedisServer, settings: dict[str, str], said: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        for name, value in settings.items():
            client.config_set(name, value)
    found = findings(tmp_path, 0, REDIS_URL=redis_server.url)
    assert said in found["broker", "weak"]


@pytest.mark.redis
@pytest.mark.clickhouse
def test_a_clickhouse_without_tables_is_an_error(
    tmp_path: Path, redis_url: str, clickhouse_url: str, clickhouse_database: str
) -> None:
    env = {
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": clickhouse_url,
        "CLICKHOUSE_DATABASE": clickhouse_database,
    }
    assert "formrelay migrate" in findings(tmp_path, 1, **env)["clickhouse", "bad"]
    assert run("migrate", cwd=tmp_path, env=env).returncode == 0
    assert ("clickhouse", "bad") not in findings(tmp_path, 0, **env)


def test_an_unavailable_broker_is_an_error(tmp_path: Path) -> None:
    found = findings(tmp_path, 1, REDIS_URL="redis://127.0.0.1:1")
    assert "expected Redis at 127.0.0.1:1 to answer" in found["broker", "bad"]
