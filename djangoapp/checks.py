"""System checks: the configuration always, the broker with ``manage.py check --deploy``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning, register

from ..brokers import RelayBroker, make_broker
from ..config import Settings, get_settings
from ..core.errors import ConfigError, FormrelayError, NotConfigured
from ..core.printable import printable
from .outbox import keeps_jobs
from .shared_call import SharedCall

_TAG = "formrelay"
#: Timeout in seconds to connect, and for the whole check.
_CONNECT_TIMEOUT, _TIMEOUT = 2, 4.0

_CORRECT_HINT = (
    "Correct it in the setting FORMRELAY, or in the environment; "
    "`formrelay config --example` explains each variable."
)
_BROKER_HINT = (
    "FORMRELAY = {'REDIS_URL': 'redis://host:6379/0'} in settings.py, or REDIS_URL or "
    "RABBITMQ_URL in the environment."
)
_KEEP_HINT = "It is for tests: remove it from the production settings."
_ORDER_HINT = (
    "Do not call get_settings() or get_broker(), or send a job, in settings.py or before "
    "django.setup()."
)
_START_HINT = (
    "Start the broker, or correct its address; while it is unavailable, enqueue() "
    "raises BrokerUnavailable and no job runs."
)


@register(_TAG)
def check_configuration(**_: Any) -> list[CheckMessage]:
    """E001: a value is wrong. W001: no broker is configured. W002: API_TOKEN is missing."""
    if not apps.get_app_config("formrelay").is_in_time:
        text = "formrelay's configuration was read before its app was loaded: FORMRELAY is ignored"
        return [Error(text, hint=_ORDER_HINT, id="formrelay.E001")]
    try:
        settings = get_settings()
    except NotConfigured as error:
        # A warning, so that migrations and image builds work without a broker.
        return [Warning(printable(str(error)), hint=_BROKER_HINT, id="formrelay.W001")]
    except ConfigError as error:
        return [
            Error(printable(line), hint=_CORRECT_HINT, id="formrelay.E001")
            for line in str(error).split("\n")
        ]
    try:
        keeps_jobs()
    except ConfigError as error:
        return [Error(printable(str(error)), hint=_KEEP_HINT, id="formrelay.E001")]
    return list(_token(settings))


def _token(settings: Settings) -> Iterator[CheckMessage]:
    if settings.api.url is not None and settings.api.token is None:
        yield Warning(
            "API_URL is set and API_TOKEN is not: submissions are sent without a token",
            hint="Set API_TOKEN (or API_TOKEN_FILE) to a token that the API accepts.",
            id="formrelay.W002",
        )


@register(_TAG, deploy=True)
def check_broker(**_: Any) -> list[CheckMessage]:
    """E001: no broker is configured. E003: it cannot be used. E008: jobs are kept.
    W004: a guarantee is weaker.
    """
    try:
        settings = get_settings()
    except NotConfigured as error:
        return [Error(printable(str(error)), hint=_BROKER_HINT, id="formrelay.E001")]
    except ConfigError:
        return []  # reported by check_configuration
    if keeps_jobs():
        text = "FORMRELAY_KEEP_JOBS is True: no job is sent"
        return [Error(text, hint=_KEEP_HINT, id="formrelay.E008")]
    quick = {
        "connect_timeout": min(settings.broker.connect_timeout, timedelta(seconds=_CONNECT_TIMEOUT))
    }
    quickly = settings.model_copy(update={"broker": settings.broker.model_copy(update=quick)})
    try:
        weaknesses = SharedCall(lambda: _weaknesses(make_broker(quickly)), timeout=_TIMEOUT)()
    except FormrelayError as error:
        return [Error(printable(str(error)), hint=_START_HINT, id="formrelay.E003")]
    return [_weak(weakness) for weakness in weaknesses]


@register(_TAG)
def check_tasks(**_: Any) -> list[CheckMessage]:
    """W007: the package of Django's Tasks API is not an installed app."""
    from .discovery import may_use_tasks

    if not may_use_tasks():
        return []
    from .task_backend.checks import check_package
    from .task_backend.discovery import task_backends

    return list(check_package()) if task_backends() else []


def _weaknesses(broker: RelayBroker) -> list[str]:
    try:
        broker.ping()
        return [*broker.try_access(), *broker.weaknesses()]
    finally:
        broker.close()


def _weak(weakness: str) -> CheckMessage:
    """Split a weakness into the problem and, after the last semicolon, the advice."""
    problem, _, advice = weakness.rpartition("; ")
    hint = f"{advice[:1].upper()}{advice[1:]}." if problem else "See docs/brokers.md."
    return Warning(printable(f"The broker: {problem or weakness}"), hint=hint, id="formrelay.W004")
