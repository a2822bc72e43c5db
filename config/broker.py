"""The variables of the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import Field, SecretStr, model_validator

from .redis_urls import redis_url_check
from .secrets import secret
from .section import Section
from .sources import Given
from .types import (
    AdoptedQueues,
    AnyCase,
    Count,
    Days,
    Folder,
    Hours,
    Seconds,
    SecondsFromOne,
    Takes,
    Whole,
)
from .urls import url_check

RedisUrl = Annotated[
    SecretStr,
    secret(redis_url_check(advice="give a Redis server's address, like redis://host:6379/0")),
]
StateUrl = Annotated[
    SecretStr,
    secret(
        redis_url_check(
            "memory",
            advice="give a Redis server's address, or memory:// for the memory of each process",
        )
    ),
]
RabbitmqUrl = Annotated[
    SecretStr,
    secret(url_check("amqp", "amqps", advice="give a RabbitMQ server's address, like amqp://host")),
]
ManagementUrl = Annotated[
    SecretStr,
    secret(
        url_check(
            "http", "https", advice="give an address like http://user:password@host:15672/api"
        )
    ),
]


class MissingBroker(str):
    """An error line that the broker is not configured, though every variable is valid."""

    __slots__ = ()


class BrokerSettings(Section):
    """Broker"""

    kind: Annotated[Literal["redis", "rabbitmq", "embedded"], AnyCase] = Field(
        validation_alias="BROKER",
        description="Broker to use: 'redis', 'rabbitmq', or 'embedded' to try formrelay without a "
        "server. Default: the broker whose URL is set.",
    )
    redis_url: RedisUrl | None = Field(
        None,
        description="Address of Redis with the number of the database: redis://, rediss:// (TLS), "
        "unix:// or redis+sentinel://.",
    )
    redis_wait_replicas: Whole = Field(
        0,
        ge=0,
        description="Number of replicas that must have a job before sending it succeeds; 0 does "
        "not wait for replicas.",
    )
    redis_wait_timeout: Seconds = Field(
        timedelta(seconds=1),
        description="Seconds after which sending a job fails if too few replicas have it.",
    )
    rabbitmq_url: RabbitmqUrl | None = Field(
        None,
        description="Address of RabbitMQ with the virtual host: amqp:// or amqps:// (TLS).",
    )
    state_url: StateUrl | None = Field(
        None,
        description="Address of the Redis that stores circuit breakers, rate limits and "
        "idempotency keys, or memory:// for the memory of each process. Default: the broker's "
        "Redis, or memory if there is none.",
    )
    idempotency_keep: Hours = Field(
        timedelta(hours=24),
        description="Hours after which an idempotency key is forgotten and its job may run again.",
    )
    namespace: Annotated[
        str,
        Field(pattern=r"^[\w.:{}-]+\Z"),
        Takes("letters, digits and '.', '_', '-', ':', '{', '}' only"),
    ] = Field(
        "dramatiq",
        validation_alias="BROKER_NAMESPACE",
        description="Prefix of every Redis key. Producers must use the same prefix; environments "
        "that share a Redis need different ones.",
    )
    heartbeat_timeout: SecondsFromOne = Field(
        timedelta(seconds=15),
        validation_alias="HEARTBEAT_TIMEOUT",
        description="Seconds of silence after which a worker counts as dead and its jobs are "
        "recovered.",
    )
    max_crash_deliveries: Count = Field(
        3,
        description="Number of workers that a job may kill before it is dead-lettered.",
    )
    rabbitmq_queue_type: Annotated[Literal["quorum", "classic"], AnyCase] = Field(
        "quorum", description="'quorum' or 'classic'. An existing queue keeps its type."
    )
    rabbitmq_max_priority: Annotated[Whole, Interval(ge=1, le=9)] | None = Field(
        None,
        description="Highest priority of a job; makes the work queues classic. 9 gives the same "
        "ten priorities as Redis. Default: no priorities.",
    )
    rabbitmq_adopt_queues: AdoptedQueues = Field(
        (),
        description="Existing queues to use unchanged, comma-separated, each with the name of its "
        "dead-letter exchange if that differs: webhook_tasks=dlx.webhook.",
    )
    rabbitmq_api_url: ManagementUrl | None = Field(
        None,
        description="Address of RabbitMQ's management API, which tells the workers and the number "
        "of messages in flight: http://user:password@host:15672/api.",
    )
    max_message_bytes: Count = Field(
        1_048_576,
        description="Maximum size of a message in bytes; sending a larger one fails.",
    )
    dead_letter_retention: Days = Field(
        timedelta(days=30), description="Days after which a dead letter is deleted."
    )
    connect_timeout: Seconds = Field(
        timedelta(seconds=5),
        validation_alias="BROKER_CONNECT_TIMEOUT_SECONDS",
        description="Seconds after which an attempt to connect fails.",
    )

    @model_validator(mode="before")
    @classmethod
    def _kind_by_url(cls, data: Any) -> Any:
        if isinstance(data, dict) and "kind" not in data:
            kinds = [kind for kind in ("redis", "rabbitmq") if data.get(f"{kind}_url")]
            if len(kinds) == 1:
                return data | {"kind": kinds[0]}
        return data

    @classmethod
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """A broker that is ambiguous or missing, or has no URL."""
        redis, rabbitmq = "redis_url" in given, "rabbitmq_url" in given
        kind = given["kind"].text.strip().lower() if "kind" in given else None
        if kind is None and redis and rabbitmq:
            yield (
                "expected BROKER to say which broker to use, got both REDIS_URL and RABBITMQ_URL"
                " without it: set BROKER=redis or BROKER=rabbitmq"
            )
        elif kind is None and not redis and not rabbitmq:
            yield MissingBroker(
                "expected BROKER, REDIS_URL or RABBITMQ_URL to be set, got none:"
                " set your broker's URL, or BROKER=embedded to try formrelay without a server"
            )
        elif kind == "redis" and not redis:
            yield _missing_url("REDIS_URL", kind, "redis://host:6379/0")
        elif kind == "rabbitmq" and not rabbitmq:
            yield _missing_url("RABBITMQ_URL", kind, "amqp://user:password@host:5672/")


def _missing_url(name: str, kind: str, example: str) -> MissingBroker:
    return MissingBroker(
        f"expected {name} to be set, because BROKER is '{kind}', got nothing:"
        f" set it ({example}) or change BROKER"
    )


class EmbeddedSettings(Section):
    """Embedded broker and ClickHouse (BROKER=embedded)"""

    prefix: ClassVar[str] = "EMBEDDED_"

    data_dir: Folder = Field(
        Path(".formrelay"), description="Folder for the data of the broker and of ClickHouse."
    )
    port: Annotated[Whole, Interval(ge=1, le=65535)] | None = Field(
        None, description="TCP port on 127.0.0.1. Default: only a Unix socket."
    )
