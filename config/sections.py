"""The sections about the outside: broker, API, ClickHouse, monitoring, logs.

A field's description is its documentation: `.env.example` is made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from .base import Missing, Section
from .parser import Parser, optional
from .redis_urls import redis_url_check
from .secrets import secret, token_check
from .types import (
    Adopted,
    Bool,
    Days,
    Folder,
    Hours,
    LogLevel,
    Millis,
    Seconds,
    Text,
    WholeSeconds,
    matching,
    one_of,
    whole,
)
from .urls import url_check
from .variables import Given

RedisUrl = Annotated[
    SecretStr | None,
    secret(redis_url_check(advice="give a Redis server's address, like redis://host:6379/0")),
]
RabbitmqUrl = Annotated[
    SecretStr | None,
    secret(url_check("amqp", "amqps", advice="give a RabbitMQ server's address, like amqp://host")),
]
ManagementUrl = Annotated[
    SecretStr | None,
    secret(url_check("http", "https", advice="give it like http://user:password@host:15672/api")),
]
StateUrl = Annotated[
    SecretStr | None,
    secret(
        redis_url_check(
            "memory",
            advice="give a Redis server's address, or memory:// for each process's own memory",
        )
    ),
]
ClickhouseUrl = Annotated[
    SecretStr | None,
    secret(
        url_check(
            "clickhouse", "clickhouses", "http", "https", "chdb",
            advice="use clickhouse:// for the native port 9000 and http:// for port 8123",
            many_hosts=True,
        )
    ),
]  # fmt: skip
ApiUrl = Annotated[
    str | None,
    optional(Parser(url_check("http", "https", advice="give the API's address", plain=True))),
]


class BrokerSettings(Section):
    """The broker that carries the jobs"""

    kind: Annotated[
        Literal["redis", "rabbitmq", "embedded"], one_of("redis", "rabbitmq", "embedded")
    ] = Field(
        validation_alias="BROKER",
        description="'redis', 'rabbitmq', or 'embedded' to try formrelay out without a server. "
        "Not set: by which of REDIS_URL and RABBITMQ_URL is set.",
    )
    redis_url: RedisUrl = Field(
        None,
        description="Redis: redis://, rediss:// (TLS), unix:// or redis+sentinel:// address, with "
        "the database.",
    )
    redis_wait_replicas: Annotated[int, whole(0)] = Field(
        0,
        description="Number of replicas that must have a job before sending it succeeds; 0 does "
        "not wait for replicas.",
    )
    redis_wait_timeout: Seconds = Field(
        timedelta(seconds=1), description="How long sending a job waits for those replicas."
    )
    rabbitmq_url: RabbitmqUrl = Field(
        None, description="RabbitMQ: amqp:// or amqps:// (TLS) address, with the virtual host."
    )
    state_url: StateUrl = Field(
        None,
        description="Where breakers, rate limits and idempotency keys live: a Redis address, or "
        "memory://. Not set: the broker's Redis, or memory where there is none.",
    )
    idempotency_keep: Hours = Field(
        timedelta(hours=24),
        description="How long a job that gave an idempotencyKey is known to have run.",
    )
    namespace: Annotated[
        str, matching(r"[\w.:{}-]+", "be letters, digits and '.', '_', '-', ':', '{', '}' only")
    ] = Field(
        "dramatiq",
        validation_alias="BROKER_NAMESPACE",
        description="The first part of every Redis key. Producers must use the same; environments "
        "that share a Redis need different ones.",
    )
    heartbeat_timeout: WholeSeconds = Field(
        timedelta(seconds=15),
        validation_alias="HEARTBEAT_TIMEOUT",
        description="A worker silent for longer counts as dead and its jobs are taken over.",
    )
    max_crash_deliveries: Annotated[int, whole(1)] = Field(
        3, description="A job whose worker died this many times goes to the dead letters."
    )
    rabbitmq_queue_type: Annotated[Literal["quorum", "classic"], one_of("quorum", "classic")] = (
        Field("quorum", description="'quorum' or 'classic'; a queue that exists keeps its type.")
    )
    rabbitmq_max_priority: Annotated[int | None, optional(whole(1, 9))] = Field(
        None,
        description="Priorities of the work queues, which are classic ones then; 9 for the same "
        "ten as on Redis.",
    )
    rabbitmq_adopt_queues: Adopted = Field(
        (),
        description="Queues of an older system that are used as they are, comma-separated, each "
        "with its dead-letter exchange if that differs: webhook_tasks=dlx.webhook.",
    )
    rabbitmq_api_url: ManagementUrl = Field(
        None,
        description="RabbitMQ's management API, for what AMQP does not tell (who works, how much "
        "is in flight): http://user:password@host:15672/api.",
    )
    max_message_bytes: Annotated[int, whole(1)] = Field(
        1_048_576, description="A larger job is refused when it is sent."
    )
    dead_letter_retention: Days = Field(
        timedelta(days=30), description="Dead letters older than this are deleted."
    )
    connect_timeout: Seconds = Field(
        timedelta(seconds=5),
        validation_alias="BROKER_CONNECT_TIMEOUT_SECONDS",
        description="How long to wait for a connection.",
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_by_url(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data:
            told = [kind for kind in ("redis", "rabbitmq") if data.get(f"{kind}_url")]
            if len(told) == 1:
                return data | {"kind": told[0]}
        return data

    @classmethod
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """The broker that cannot be told, or whose URL is missing."""
        redis, rabbitmq = "redis_url" in given, "rabbitmq_url" in given
        kind = given["kind"].text.strip().lower() if "kind" in given else None
        if kind is None and redis and rabbitmq:
            yield (
                "expected BROKER to say which broker to use, got both REDIS_URL and RABBITMQ_URL"
                " without it: set BROKER=redis or BROKER=rabbitmq"
            )
        elif kind is None and not redis and not rabbitmq:
            yield Missing(
                "expected BROKER, REDIS_URL or RABBITMQ_URL to be set, got none of them:"
                " set your broker's URL, or BROKER=embedded to try formrelay out without a server"
            )
        elif kind == "redis" and not redis:
            yield _missing_url("REDIS_URL", kind, "redis://host:6379/0")
        elif kind == "rabbitmq" and not rabbitmq:
            yield _missing_url("RABBITMQ_URL", kind, "amqp://user:password@host:5672/")


def _missing_url(name: str, kind: str, example: str) -> Missing:
    return Missing(
        f"expected {name} to be set, because BROKER is '{kind}', got nothing:"
        f" set it ({example}) or change BROKER"
    )


class EmbeddedSettings(Section):
    """The embedded broker and database (BROKER=embedded)"""

    model_config = SettingsConfigDict(env_prefix="EMBEDDED_")

    data_dir: Folder = Field(Path(".formrelay"), description="The folder that keeps their data.")
    port: Annotated[int | None, optional(whole(1, 65535))] = Field(
        None, description="TCP port on 127.0.0.1. Not set: a Unix socket only."
    )


class ApiSettings(Section):
    """The Django API that takes submissions"""

    model_config = SettingsConfigDict(env_prefix="API_")

    url: ApiUrl = Field(None, description="Its http:// or https:// address.")
    token: Annotated[SecretStr | None, secret(token_check)] = Field(
        None, description="The bearer token."
    )
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="How long to wait for a connection."
    )
    timeout: Seconds = Field(timedelta(seconds=30), description="How long a request may take.")


class ClickhouseSettings(Section):
    """ClickHouse, where events are kept"""

    model_config = SettingsConfigDict(env_prefix="CLICKHOUSE_")

    url: ClickhouseUrl = Field(
        None,
        description="clickhouse(s):// for the native protocol, http(s):// for HTTP (s: TLS), "
        "chdb:///folder for the engine inside the process. Several hosts, comma-separated, are "
        "tried in turn: clickhouse://a:9000,b:9000/db. Not set with BROKER=embedded: chdb in its "
        "folder.",
    )
    database: Annotated[
        str, matching(r"[A-Za-z_][\w-]*", "be a database name (letters, digits, '_' and '-')")
    ] = Field("default", description="The database; `formrelay migrate` creates it.")
    cluster: Annotated[
        str | None,
        optional(matching(r"[\w.-]+", "be a cluster's name (letters, digits, '_', '.' and '-')")),
    ] = Field(
        None,
        description="A cluster of the server's configuration: `formrelay migrate` makes replicated "
        "tables on all of its hosts.",
    )
    user: Text = Field("default", description="The user, where the URL names none.")
    password: Annotated[SecretStr | None, secret()] = Field(
        None, description="The user's password, where the URL has none."
    )
    timeout: Seconds = Field(timedelta(seconds=30), description="How long an insert may take.")
    connect_timeout: Seconds = Field(
        timedelta(seconds=5), description="How long to wait for a connection."
    )


class MonitoringSettings(Section):
    """Monitoring"""

    model_config = SettingsConfigDict(env_prefix="WORKER_MONITORING_")

    enabled: Bool = Field(False, description="Whether workers report on themselves.")
    interval: Millis = Field(
        timedelta(seconds=30),
        validation_alias="WORKER_MONITORING_INTERVAL",
        description="The time between reports.",
    )


class LoggingSettings(Section):
    """Logs"""

    level: LogLevel = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        description="The least severe level that is written: a Python level, "
        "or warn, verbose, trace, fatal.",
    )
    debug: Text = Field(
        "",
        validation_alias="DEBUG",
        description="As in Node: 'workers:*' among its patterns makes the level DEBUG.",
    )

    @property
    def effective_level(self) -> str:
        """The level in force, as Python's logging names it."""
        return "DEBUG" if _names_workers(self.debug) else self.level


def _names_workers(patterns: str) -> bool:
    """Whether a DEBUG of npm's debug package switches workers on.

    Its rules: patterns apart by spaces or commas, ``*`` as the wildcard, ``-``
    before what is switched off. Django's ``DEBUG=True`` names nothing of ours.
    """
    parts = patterns.replace(",", " ").split()
    off = [part[1:] for part in parts if part.startswith("-")]
    on = [part for part in parts if not part.startswith("-")]
    return any(map(_names_some, on)) and not any(map(_names_all, off))


def _names_some(pattern: str) -> bool:
    return pattern.startswith("workers:") or _names_all(pattern)


def _names_all(pattern: str) -> bool:
    literal = pattern.replace("[", "[[]").replace("?", "[?]")  # only '*' is special there
    return pattern == "workers" or fnmatchcase("workers:", literal)
