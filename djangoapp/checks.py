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
from .look import Look

_TAG = "formrelay"
#: To connect, and for the whole look, seconds.
_CONNECT, _WITHIN = 2, 4.0

_SET_IT = (
    "Correct it in the setting FORMRELAY, or in the environment; "
    "`formrelay config --example` says what each variable takes."
)
_NAME_A_BROKER = (
    "FORMRELAY = {'REDIS_URL': 'redis://host:6379/0'} in settings.py, or REDIS_URL or "
    "RABBITMQ_URL in the environment."
)
_LOAD_FIRST = (
    "Call get_settings() or get_broker(), or send a job, not in settings.py and not before "
    "django.setup()."
)
_START_IT = (
    "Start the broker, or correct its address; while it is away enqueue() raises "
    "BrokerUnavailable and no job runs."
)


@register(_TAG)
def check_configuration(**_: Any) -> list[CheckMessage]:
    """E001: the configuration is wrong, a line each. W001: there is none. W002: no token."""
    if not apps.get_app_config("formrelay").is_in_time:
        text = "formrelay's configuration was read before its app was loaded: FORMRELAY is not used"
        return [Error(text, hint=_LOAD_FIRST, id="formrelay.E001")]
    try:
        settings = get_settings()
    except NotConfigured as error:
        # No error, or nobody could migrate, or build an image, where there is no broker yet.
        return [Warning(printable(str(error)), hint=_NAME_A_BROKER, id="formrelay.W001")]
    except ConfigError as error:
        return [
            Error(printable(line), hint=_SET_IT, id="formrelay.E001")
            for line in str(error).split("\n")
        ]
    return list(_token(settings))


def _token(settings: Settings) -> Iterator[CheckMessage]:
    if settings.api.url is not None and settings.api.token is None:
        yield Warning(
            "API_URL is set and API_TOKEN is not: submissions are sent without a token",
            hint="Set API_TOKEN (or API_TOKEN_FILE) to a token that the API takes.",
            id="formrelay.W002",
        )


@register(_TAG, deploy=True)
def check_broker(**_: Any) -> list[CheckMessage]:
    """E001: no broker is configured. E003: it cannot be used. W004: it keeps less than we
    promise."""
    try:
        settings = get_settings()
    except NotConfigured as error:
        return [Error(printable(str(error)), hint=_NAME_A_BROKER, id="formrelay.E001")]
    except ConfigError:
        return []  # said by the check of the configuration
    quick = {"connect_timeout": min(settings.broker.connect_timeout, timedelta(seconds=_CONNECT))}
    quickly = settings.model_copy(update={"broker": settings.broker.model_copy(update=quick)})
    try:
        weaknesses = Look(lambda: _weaknesses(make_broker(quickly)), within=_WITHIN)()
    except FormrelayError as error:
        return [Error(printable(str(error)), hint=_START_IT, id="formrelay.E003")]
    return [_weak(weakness) for weakness in weaknesses]


def _weaknesses(broker: RelayBroker) -> list[str]:
    try:
        broker.ping()
        return [*broker.try_access(), *broker.weaknesses()]
    finally:
        broker.close()


def _weak(weakness: str) -> CheckMessage:
    """A weakness says what is the matter and, behind the last semicolon, what to do."""
    matter, _, advice = weakness.rpartition("; ")
    hint = f"{advice[:1].upper()}{advice[1:]}." if matter else "See docs/brokers.md."
    return Warning(printable(f"The broker: {matter or weakness}"), hint=hint, id="formrelay.W004")
