"""FORMRELAY in settings.py, the system checks, and a project without a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.djangoapp.host import Host
from tests.support.command import clean_environment
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

NOWHERE = "redis://:hush@127.0.0.1:1/0"


def host_with(folder: Path, env: dict[str, str] | None = None, **formrelay: Any) -> Host:
    return Host(folder, settings={"FORMRELAY": formrelay}, env=env)


def test_each_key_of_formrelay_overrides_its_environment_variable(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-a-file")
    env = {
        "REDIS_URL": "redis://elsewhere",
        "WEBHOOK_MAX_RETRIES": "3",
        "API_URL": "http://api.example",
        "API_TOKEN_FILE": str(tmp_path / "token"),
        "WORKER_CONCURRENCY": "5",
    }
    host = host_with(
        tmp_path, env, REDIS_URL=NOWHERE, WEBHOOK_MAX_RETRIES=7, API_URL=None, API_TOKEN="mine"
    )
    assert host.call("configuration.of_each_kind") == [NOWHERE, 7, "http://api.example", "mine", 5]
    host.settings = {}
    found = host.call("configuration.of_each_kind")
    assert found == ["redis://elsewhere", 3, "http://api.example", "of-a-file", 5]


def test_values_may_be_strings_numbers_booleans_or_paths(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.module = "typed"
    assert host.call("configuration.of_plain_types") == [True, False, 1.5, "/x/y", None]


def test_each_wrong_value_is_a_check_error_without_secrets(tmp_path: Path) -> None:
    host = host_with(
        tmp_path,
        REDIS_URL="http://:hush@host",
        WEBHOOK_MAX_RETRYS=3,
        WEBHOOK_MAX_RETRIES="often",
        API_URL=["http://api.example"],
    )
    status, said = host.check()
    assert status == 1
    assert said.count("formrelay.E001") == 4
    assert "'WEBHOOK_MAX_RETRYS': the nearest is WEBHOOK_MAX_RETRIES" in said
    assert "expected FORMRELAY['WEBHOOK_MAX_RETRIES'] to be" in said
    assert "FORMRELAY['API_URL'] to be a text, a number" in said
    assert "got list" in said
    assert "hush" not in said
    assert "HINT: Correct it in the setting FORMRELAY" in said


def test_a_formrelay_setting_that_is_not_a_dictionary_is_a_check_error(tmp_path: Path) -> None:
    status, said = Host(tmp_path, settings={"FORMRELAY": [NOWHERE]}).check()
    assert (status, said.count("formrelay.E001")) == (1, 1)
    assert "to be a dictionary" in said


@pytest.mark.parametrize("formrelay", [{}, {"BROKER": "redis"}], ids=["nothing", "no url"])
def test_a_project_without_a_broker_migrates_and_gets_a_check_message(
    tmp_path: Path, formrelay: dict[str, str]
) -> None:
    host = host_with(tmp_path, **formrelay).migrate()
    status, said = host.check()
    assert (status, "formrelay.W001" in said) == (0, True)
    status, said = host.check("--deploy")
    assert (status, "formrelay.E001" in said) == (1, True)
    assert "HINT: FORMRELAY = {'REDIS_URL'" in said
    error = host.call("configuration.error_of_enqueue")
    assert error[0] == "NotConfigured"
    assert "REDIS_URL" in error[1]


def test_the_health_view_works_with_a_wrong_configuration(tmp_path: Path) -> None:
    host = host_with(tmp_path, WORKER_PROCESSES="many")
    assert host.call("project.ask_health") == [503, {"status": "down"}]


def test_a_missing_token_for_a_configured_api_is_a_warning(tmp_path: Path) -> None:
    host = host_with(tmp_path, REDIS_URL=NOWHERE, API_URL="http://api.example")
    status, said = host.check()
    assert (status, "formrelay.W002" in said) == (0, True)
    assert "HINT: Set API_TOKEN" in said
    host.settings["FORMRELAY"]["API_TOKEN"] = "t"
    assert host.check() == (0, "")


def test_only_check_deploy_connects_to_the_broker(tmp_path: Path) -> None:
    host = host_with(tmp_path, REDIS_URL=NOWHERE)
    assert host.check() == (0, "")
    status, said = host.check("--deploy")
    assert (status, said.count("formrelay.E003")) == (1, 1)
    assert "127.0.0.1:1" in said
    assert "hush" not in said
    assert "HINT: Start the broker" in said


@pytest.mark.rabbitmq
def test_check_deploy_fails_if_rabbitmq_is_unavailable(tmp_path: Path, rabbitmq_url: str) -> None:
    assert host_with(tmp_path, RABBITMQ_URL=rabbitmq_url).check("--deploy") == (0, "")
    status, said = host_with(tmp_path, RABBITMQ_URL="amqp://127.0.0.1:1/").check("--deploy")
    assert (status, "formrelay.E003" in said) == (1, True)


@pytest.fixture
def lossy(redis_server: RedisServer) -> str:
    """A Redis that may evict jobs and writes nothing to disk."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    return redis_server.url


def test_each_weakness_of_the_broker_is_a_warning_with_advice(tmp_path: Path, lossy: str) -> None:
    status, said = host_with(tmp_path, REDIS_URL=lossy).check("--deploy")
    assert (status, said.count("formrelay.W004")) == (0, 2)
    assert "maxmemory-policy is allkeys-lru" in said
    assert "HINT: Set it to noeviction." in said
    assert "appendonly is off" in said
    assert "HINT: Turn it on." in said
    with redis.Redis.from_url(lossy) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        wait_until(lambda: client.info("persistence")["aof_enabled"])
    assert host_with(tmp_path, REDIS_URL=lossy).check("--deploy") == (0, "")


@pytest.mark.slow
def test_a_broker_that_hangs_is_an_error_within_seconds(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.pause()
    try:
        status, said = host_with(tmp_path, REDIS_URL=redis_server.url).check("--deploy")
    finally:
        redis_server.resume()
    assert (status, "formrelay.E003" in said) == (1, True)


def test_the_app_has_no_models_and_needs_no_migration(tmp_path: Path) -> None:
    host = host_with(tmp_path, REDIS_URL=NOWHERE)
    done = host.manage("makemigrations", "--check", "--dry-run")
    assert (done.returncode, done.stdout.strip()) == (0, "No changes detected")
    assert host.call("configuration.app") == ["formrelay.djangoapp", "formrelay", []]


def test_reading_settings_too_early_is_an_error(tmp_path: Path) -> None:
    host = host_with(tmp_path, {"REDIS_URL": NOWHERE}, API_TOKEN="t")
    host.module = "hasty"
    status, said = host.check()
    assert (status, "formrelay.E001" in said) == (1, True)
    assert "FORMRELAY is ignored" in said


def test_the_settings_module_may_import_the_actors(tmp_path: Path) -> None:
    host = host_with(tmp_path, {"REDIS_URL": NOWHERE}, API_TOKEN="t")
    host.module = "eager"
    assert host.check() == (0, "")


def test_any_models_module_may_import_the_actors(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FIRST_APPS": ["early"], "FORMRELAY": {"REDIS_URL": NOWHERE}})
    assert host.check() == (0, "")


PROGRAMS = Path(__file__).with_name("programs")


def test_importing_the_app_needs_no_configuration_and_no_models(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "imports_the_app.py")],
        cwd=tmp_path,
        env=clean_environment(REDIS_URL="nonsense"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, False, False]


def test_all_other_packages_of_formrelay_work_without_django(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "imports_without_django.py")],
        cwd=tmp_path,
        env=clean_environment(REDIS_URL=NOWHERE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
