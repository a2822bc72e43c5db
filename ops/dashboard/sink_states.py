"""The states of the sinks, from the settings, the worker reports and the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...config import Settings, get_settings
from ...config.urls import mask
from ...core.errors import ConfigError
from ...state.worker_reports import PausedSink, WorkerReport
from ..output import age
from .external_systems import NO_STORE, ExternalSystem, Tone
from .figures import QueueFigures


@dataclass(frozen=True, slots=True)
class _Sink:
    """A sink in the settings.

    Attributes:
        name: its name in the reports of workers.
        title: its name on the page.
        address: without secrets; None if the sink is not configured.
        to_set: how to configure it.
        queues: queues whose jobs use it.
    """

    name: str
    title: str
    address: str | None
    to_set: str
    queues: tuple[str, ...]


def sink_states(
    reports: Sequence[WorkerReport],
    figures: Mapping[str, QueueFigures] | None,
    now: float,
) -> list[ExternalSystem]:
    """Return the sinks with their last known state; calls none of them.

    Args:
        reports: of live workers.
        figures: of all queues; None without a shared store.
        now: Unix seconds.
    """
    try:
        settings = get_settings()
    except ConfigError:  # a broker that is made in code needs none
        return []
    return [_state(sink, reports, figures, now) for sink in _sinks(settings)]


def _sinks(settings: Settings) -> list[_Sink]:
    forms = (settings.submissions.queue, settings.partials.queue)
    clickhouse, smtp = settings.clickhouse.secret("url"), settings.smtp.secret("url")
    sheets = "" if settings.sheets.is_configured else None
    return [
        _Sink("api", "API", _masked(settings.api.url), "set API_URL for its jobs", forms),
        _Sink(
            "clickhouse",
            "ClickHouse",
            _masked(clickhouse),
            "set CLICKHOUSE_URL for its jobs",
            (settings.events.queue,),
        ),
        _Sink("smtp", "SMTP", _masked(smtp), "set SMTP_URL for its jobs", (settings.emails.queue,)),
        _Sink(
            "sheets",
            "Google Sheets",
            sheets,
            "no Google account is configured",
            (settings.sheets.queue,),
        ),
    ]


def _masked(url: str | None) -> str | None:
    return None if url is None else mask(url)


def _state(
    sink: _Sink,
    reports: Sequence[WorkerReport],
    figures: Mapping[str, QueueFigures] | None,
    now: float,
) -> ExternalSystem:
    if sink.address is None:
        return ExternalSystem(sink.title, "not set", "", sink.to_set)
    consuming = [report for report in reports if set(report.queues) & set(sink.queues)]
    paused = [each for report in consuming for each in report.paused if each.sink == sink.name]
    failing = [each for each in paused if each.is_failing]
    found = [] if figures is None else [figures[name] for name in sink.queues if name in figures]
    success = max((each.last_success for each in found if each.last_success), default=None)
    failure = max((each.last_failure for each in found if each.last_failure), default=None)
    attempts = _attempts(sink, success, failure, now) if figures is not None else NO_STORE

    def system(state: str, tone: Tone, *details: str) -> ExternalSystem:
        texts = [text for text in (sink.address, *details, attempts) if text]
        return ExternalSystem(sink.title, state, tone, "; ".join(texts))

    if failing:
        return system("unavailable", "bad", _pauses(failing, len(consuming)))
    if paused:
        return system("at a limit", "warn", _pauses(paused, len(consuming)))
    if success is None and failure is None:
        return system("configured", "")
    if success is None or (failure is not None and failure > success):
        return system("failing", "warn")
    return system("working", "good")


def _pauses(paused: Sequence[PausedSink], workers: int) -> str:
    seconds = min(each.seconds for each in paused)
    next_try = f", next try within {age(seconds)}" if seconds else ""
    return f"paused in {len(paused):,} of {workers:,} workers{next_try}"


def _attempts(sink: _Sink, success: float | None, failure: float | None, now: float) -> str:
    """Say when attempts of the sink's queues last succeeded and failed."""
    found = [
        f"last {name} {age(max(0.0, now - at))} ago"
        for name, at in (("success", success), ("failure", failure))
        if at is not None
    ]
    queues = " and ".join(sink.queues)
    if not found:
        return f"no attempt on {queues} in the last day"
    return f"on {queues}: {', '.join(found)}"
