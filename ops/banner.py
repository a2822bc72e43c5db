"""What a worker is connected to, printed when it starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..brokers import get_broker
from ..config import Settings, get_settings
from ..config.urls import mask
from ..core.errors import BrokerError
from .logs import setup_logging
from .output import say_error

logger = logging.getLogger("formrelay.workers")

_OK, _CONFIGURED, _DOWN = "ok", "configured", "unavailable"
_NOT_SET = "not configured"


@dataclass(frozen=True, slots=True)
class System:
    """A system that workers use.

    Attributes:
        field: its name in a log line.
        state: ``ok`` (it answers), ``configured`` (not called), ``unavailable`` or
            ``not configured``.
        says: its address without secrets, or what to do.
    """

    name: str
    field: str
    state: str
    says: str


def announce(
    queues: Sequence[str] | None, *, processes: int, threads: int, answers: Mapping[str, bool]
) -> None:
    """Print what the workers are connected to: lines on a terminal, otherwise one log line.

    Args:
        queues: the queues that they consume; None for all.
        answers: by the name of a sink that was called, whether it answers.
    """
    found = systems(answers)
    if sys.stderr.isatty():
        what = ", ".join(queues) if queues else "all queues"
        say_error(f"formrelay worker: {what}; processes: {processes}, threads of each: {threads}")
        for system in found:
            say_error(f"  {system.name:<12} {system.state:<15} {system.says}".rstrip())
        return
    setup_logging(get_settings().logging)
    about = {system.field: f"{system.state}: {system.says}".removesuffix(": ") for system in found}
    logger.info("starting workers", extra={**about, "queues": list(queues or ["all"])})


def systems(answers: Mapping[str, bool]) -> list[System]:
    """The systems that workers use. The broker has answered before."""
    settings = get_settings()
    clickhouse = settings.clickhouse.secret("url")
    checked = {None: _CONFIGURED, True: _OK, False: _DOWN}[answers.get("clickhouse")]
    return [
        System("broker", "broker", _OK, _broker_address(settings)),
        _state(settings),
        _sink("ClickHouse", clickhouse, checked, "CLICKHOUSE_URL"),
        _sink("API", settings.api.url, _CONFIGURED, "API_URL"),
        _sink("SMTP", settings.smtp.secret("url"), _CONFIGURED, "SMTP_URL"),
        _google(settings),
    ]


def _broker_address(settings: Settings) -> str:
    match settings.broker.kind:
        case "redis":
            return mask(settings.broker.secret("redis_url") or "")
        case "rabbitmq":
            return mask(settings.broker.secret("rabbitmq_url") or "")
        case _:
            return f"embedded in {settings.embedded.data_dir}"


def _state(settings: Settings) -> System:
    name, field = "state store", "state_store"
    state, url = get_broker().state, settings.broker.secret("state_url")
    if state is None:
        return System(name, field, _NOT_SET, "each process keeps state in memory: set STATE_URL")
    says = mask(url) if url is not None else "in the Redis of the broker"
    from ..state.redis.connection import translated

    try:
        with translated(state.where):
            state.client.ping()
    except BrokerError:
        return System(name, field, _DOWN, says)
    return System(name, field, _OK, says)


def _sink(name: str, url: str | None, state: str, variable: str) -> System:
    if url is None:
        return System(name, name.lower(), _NOT_SET, f"set {variable} for its jobs")
    return System(name, name.lower(), state, mask(url))


def _google(settings: Settings) -> System:
    if not settings.sheets.is_configured:
        return System("Google", "google", _NOT_SET, "no account for Sheets: docs/sheets.md")
    return System("Google", "google", _CONFIGURED, settings.sheets.api_url)
