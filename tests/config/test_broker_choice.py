"""Which broker the variables choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from formrelay.config import Settings
from tests.config.loading import line, lines

BROKERS: list[tuple[dict[str, str], str]] = [
    ({"REDIS_URL": "redis://h"}, "redis"),
    ({"RABBITMQ_URL": "amqp://h"}, "rabbitmq"),
    ({"BROKER": "embedded"}, "embedded"),
    ({"BROKER": "embedded", "REDIS_URL": "redis://h"}, "embedded"),
    ({"BROKER": "rabbitmq", "REDIS_URL": "redis://h", "RABBITMQ_URL": "amqps://h"}, "rabbitmq"),
    ({"BROKER": "", "REDIS_URL": "rediss://h", "RABBITMQ_URL": ""}, "redis"),
    ({"REDIS_URL": "unix:///run/redis.sock"}, "redis"),
]


@pytest.mark.parametrize(("environ", "kind"), BROKERS)
def test_the_broker_is_named_or_follows_from_the_url_that_is_set(
    environ: dict[str, str], kind: str
) -> None:
    assert Settings.load(environ, env_file=None).broker.kind == kind


def test_a_url_in_a_file_decides_the_broker(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://h\n")
    settings = Settings.load({"RABBITMQ_URL_FILE": str(tmp_path / "url")}, env_file=None)
    assert settings.broker.kind == "rabbitmq"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ["got none:", "BROKER=embedded to try formrelay"]),
        (
            {"REDIS_URL": "redis://h", "RABBITMQ_URL": "amqp://h"},
            ["got both REDIS_URL and RABBITMQ_URL", "set BROKER=redis or BROKER=rabbitmq"],
        ),
        ({"BROKER": "redis"}, ["expected REDIS_URL to be set, because BROKER is 'redis'"]),
        ({"BROKER": "redis", "RABBITMQ_URL": "amqp://h"}, ["expected REDIS_URL to be set"]),
        ({"BROKER": "rabbitmq"}, ["expected RABBITMQ_URL to be set"]),
    ],
)
def test_an_ambiguous_or_missing_broker_is_an_error_that_says_what_to_set(
    environ: dict[str, str], said: list[str]
) -> None:
    (only,) = lines(**environ)
    assert [part for part in said if part not in only] == []


def test_the_error_for_an_unknown_broker_lists_the_known_brokers() -> None:
    assert (
        line(BROKER="kafka")
        == "expected BROKER to be 'redis', 'rabbitmq' or 'embedded', got 'kafka'"
    )


def test_queues_of_an_older_system_are_named_with_their_exchanges() -> None:
    settings = Settings.load(
        {
            "RABBITMQ_URL": "amqp://host",
            "RABBITMQ_ADOPT_QUEUES": "webhook_tasks=dlx.webhook, mails",
            "RABBITMQ_MAX_PRIORITY": "9",
        },
        env_file=None,
    )
    assert dict(settings.broker.rabbitmq_adopt_queues) == {
        "webhook_tasks": "dlx.webhook",
        "mails": None,
    }
    assert settings.broker.rabbitmq_max_priority == 9
