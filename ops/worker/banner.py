"""What a worker is connected to, printed when it starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...config.urls import mask
from ..logs import setup_logging
from ..output import say_error
from ..reachability import (
    Reach,
    connect_to,
    connect_to_api,
    greet_smtp,
    is_embedded_clickhouse,
    reach,
)

logger = logging.getLogger("formrelay.workers")


@dataclass(frozen=True, slots=True)
class System:
    """A system that workers use.

    Attributes:
        name: its name on a terminal.
        state: ``reachable in 3 ms``, ``unreachable``, ``embedded`` or ``not configured``.
        says: its address without secrets, or what to do.
        problem: why it is unreachable.
    """

    name: str
    state: str
    says: str
    problem: str = ""

    @property
    def field(self) -> str:
        """Its name in a log line."""
        return self.name.lower().replace(" ", "_")


@dataclass(frozen=True, slots=True)
class _Configured:
    """A system that is configured, or not.

    Attributes:
        address: without secrets; None if it is not configured.
        todo: what to do if it is not configured.
        probe: connects to it; None if it cannot be called.
    """

    name: str
    address: str | None
    todo: str
    probe: Callable[[], object] | None


def announce(
    queues: Sequence[str] | None, *, processes: int, threads: int, problems: Mapping[str, str]
) -> None:
    """Print what the workers are connected to: lines on a terminal, otherwise one log line.

    Connects to each system, which takes two seconds at most; a failure is printed.

    Args:
        queues: the queues that they consume; None for all.
        problems: as for :func:`systems`.
    """
    found = systems(problems)
    if sys.stderr.isatty():
        what = ", ".join(queues) if queues else "all queues"
        say_error(f"formrelay worker: {what}; processes: {processes}, threads of each: {threads}")
        for each in found:
            say_error(f"  {each.name:<12} {each.state:<18} {each.says}".rstrip())
            if each.problem:
                say_error(f"  {'':<12} {each.problem}")
        return
    setup_logging(get_settings().logging)
    about = {each.field: _in_one_line(each) for each in found}
    logger.info("starting workers", extra={**about, "queues": list(queues or ["all"])})


def _in_one_line(system: System) -> str:
    return ": ".join(filter(None, (system.state, system.says, system.problem)))


def systems(problems: Mapping[str, str]) -> list[System]:
    """Connect to the systems that workers use.

    Args:
        problems: by the name of a system that was called before, why it does not answer, or "".
    """
    configured = _configured(get_settings())
    found = {name: Reach(None, problem) for name, problem in problems.items() if problem}
    found |= reach(
        {each.name: each.probe for each in configured if each.probe and each.name not in found}
    )
    return [_system(each, found.get(each.name)) for each in configured]


def _system(known: _Configured, reached: Reach | None) -> System:
    if known.address is None:
        return System(known.name, "not configured", known.todo)
    if reached is None:
        return System(known.name, "embedded", known.address)
    return System(known.name, str(reached), known.address, reached.problem)


def _configured(settings: Settings) -> list[_Configured]:
    clickhouse, api = settings.clickhouse.secret("url"), settings.api.url
    smtp, google = settings.smtp.secret("url"), settings.sheets
    return [
        _Configured("broker", _broker_address(settings), "", lambda: get_broker().ping(())),
        _state(settings),
        _sink(
            "ClickHouse",
            clickhouse,
            None if is_embedded_clickhouse(clickhouse) else _ping_clickhouse,
        ),
        _sink("API", api, partial(connect_to_api, settings)),
        _sink("SMTP", smtp, partial(greet_smtp, settings)),
        _Configured(
            "Google",
            google.api_url if google.is_configured else None,
            "no account for Sheets: docs/sheets.md",
            partial(connect_to, google.api_url) if google.is_configured else None,
        ),
    ]


def _broker_address(settings: Settings) -> str:
    match settings.broker.kind:
        case "redis":
            return mask(settings.broker.secret("redis_url") or "")
        case "rabbitmq":
            return mask(settings.broker.secret("rabbitmq_url") or "")
        case _:
            return f"embedded in {settings.embedded.data_dir}"


def _state(settings: Settings) -> _Configured:
    name, state = "state store", get_broker().state
    if state is None:
        return _Configured(name, None, "each process keeps state in memory: set STATE_URL", None)
    url = settings.broker.secret("state_url")

    def ping() -> None:
        from ...state.redis.connection import translated

        with translated(state.where):
            state.client.ping()

    return _Configured(
        name, mask(url) if url is not None else "in the Redis of the broker", "", ping
    )


def _sink(name: str, url: str | None, probe: Callable[[], object] | None) -> _Configured:
    if url is None:
        return _Configured(name, None, f"set {name.upper()}_URL for its jobs", None)
    return _Configured(name, mask(url), "", probe)


def _ping_clickhouse() -> None:
    from ...actors.resources import clickhouse

    clickhouse().ping()
