"""The variables of the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import Field, SecretStr, model_validator

from ..core.errors import ConfigError, NotConfigured
from .base import Section
from .encryption import FernetKeys
from .redis_urls import check_redis_url, check_state_url
from .secrets import secret
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

RedisUrl = Annotated[SecretStr, secret(check_redis_url)]
StateUrl = Annotated[SecretStr, secret(check_state_url)]
RabbitmqUrl = Annotated[SecretStr, secret(url_check("amqp", "amqps", advice="write amqp://host"))]
ManagementUrl = Annotated[
    SecretStr,
    secret(url_check("http", "https", advice="write http://user:password@host:15672/api")),
]
_EXAMPLES = {"redis": "redis://host:6379/0", "rabbitmq": "amqp://user:password@host:5672/"}


class BrokerSettings(Section):
    """Broker"""

    kind: Annotated[Literal["redis", "rabbitmq", "embedded"], AnyCase] = Field(
        validation_alias="BROKER",
        description="'redis', 'rabbitmq' or 'embedded' (no server). Default: the broker whose URL "
        "is set.",
    )
    redis_url: RedisUrl | None = Field(
        None,
        description="Redis, with the database: redis://, rediss:// (TLS), unix:// or "
        "redis+sentinel://.",
    )
    redis_wait_replicas: Whole = Field(
        0,
        ge=0,
        description="Number of replicas that must have a job before sending succeeds; 0 does not "
        "wait.",
    )
    redis_wait_timeout: Seconds = Field(
        timedelta(seconds=1),
        description="Seconds after which sending fails if too few replicas have the job.",
    )
    rabbitmq_url: RabbitmqUrl | None = Field(
        None, description="RabbitMQ, with the virtual host: amqp:// or amqps:// (TLS)."
    )
    state_url: StateUrl | None = Field(
        None,
        description="Redis for idempotency keys, disabled endpoints and delivered webhooks, or "
        "memory:// (each process for itself). Default: the broker's Redis, else memory.",
    )
    state_key: FernetKeys | None = Field(
        None,
        description="Keys that encrypt OAuth tokens in Redis, comma-separated: the first encrypts, "
        "all decrypt. Make one with `openssl rand -base64 32 | tr +/ -_`.",
    )
    idempotency_keep: Hours = Field(
        timedelta(hours=24), description="Hours after which an idempotency key is forgotten."
    )
    namespace: Annotated[
        str,
        Field(pattern=r"^[\w.:{}-]+\Z"),
        Takes("letters, digits and '.', '_', '-', ':', '{', '}' only"),
    ] = Field(
        "dramatiq",
        validation_alias="BROKER_NAMESPACE",
        description="Prefix of every Redis key; the same for producers and workers, different for "
        "environments that share a Redis.",
    )
    heartbeat_timeout: SecondsFromOne = Field(
        timedelta(seconds=15),
        validation_alias="HEARTBEAT_TIMEOUT",
        description="Seconds of silence after which a worker counts as dead and its jobs are "
        "recovered.",
    )
    max_crash_deliveries: Count = Field(
        3, description="Number of workers that a job may kill before it is dead-lettered."
    )
    rabbitmq_queue_type: Annotated[Literal["quorum", "classic"], AnyCase] = Field(
        "quorum", description="'quorum' or 'classic'. An existing queue keeps its type."
    )
    rabbitmq_max_priority: Annotated[Whole, Interval(ge=1, le=9)] | None = Field(
        None,
        description="Highest priority of a job (9 as on Redis); makes the queues classic. "
        "Default: no priorities.",
    )
    rabbitmq_adopt_queues: AdoptedQueues = Field(
        (),
        description="Existing queues to use unchanged, comma-separated, each with its dead-letter "
        "exchange if that has another name: webhook_tasks=dlx.webhook.",
    )
    rabbitmq_api_url: ManagementUrl | None = Field(
        None,
        description="Management API, to show workers and jobs in flight: "
        "http://user:password@host:15672/api.",
    )
    rabbitmq_consumer_timeout: Seconds = Field(
        timedelta(minutes=30),
        description="The server's consumer_timeout, which AMQP does not tell. doctor compares "
        "time limits with it.",
    )
    max_message_bytes: Count = Field(
        1_048_576, description="Maximum size of a message in bytes; sending a larger one fails."
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
            kinds = [kind for kind in _EXAMPLES if data.get(f"{kind}_url") is not None]
            if len(kinds) == 1:
                return data | {"kind": kinds[0]}
        return data

    @classmethod
    def conflicts(cls, texts: Mapping[str, str]) -> Iterator[ConfigError]:
        """A broker that is ambiguous or missing, or has no URL."""
        chosen = texts.get("BROKER", "").lower()
        kinds = [kind for kind in _EXAMPLES if f"{kind.upper()}_URL" in texts]
        if not chosen and len(kinds) > 1:
            yield ConfigError(
                "expected BROKER to say which broker to use, got both REDIS_URL and RABBITMQ_URL"
                " without it: set BROKER=redis or BROKER=rabbitmq"
            )
        elif not chosen and not kinds:
            yield NotConfigured(
                "expected BROKER, REDIS_URL or RABBITMQ_URL to be set, got none:"
                " set your broker's URL, or BROKER=embedded to try formrelay without a server"
            )
        elif chosen in _EXAMPLES and chosen not in kinds:
            yield NotConfigured(
                f"expected {chosen.upper()}_URL to be set, because BROKER is '{chosen}', got none:"
                f" set it ({_EXAMPLES[chosen]}) or change BROKER"
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
