"""``formrelay monitor``: look for problems and send alerts, without being a worker."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Annotated, Any

import typer

from ...actors import declare_actors
from ...brokers import RelayBroker, get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError, describe
from ...core.failure import worker_name
from ..logs import setup_logging
from ..monitor.alert_states import AlertState, Event
from ..monitor.collecting import Collector
from ..monitor.findings import ABOUT, Finding, finding
from ..monitor.messages import notify
from ..monitor.monitor import Monitor, store_finding
from ..monitor.receivers import make_receivers
from ..monitor.rules import evaluate
from ..output import print_json, print_table, say_error
from ..worker.boot import NOT_FINE
from .options import JsonOption

#: Seconds for the look of ``--once``.
_LIMIT = 10.0


def monitor(
    once: Annotated[
        bool, typer.Option("--once", help="Look once and print the problems; send nothing.")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Send a test alert to each receiver, then its end.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Look for problems at an interval, and send alerts. Runs until it is stopped.

    Several monitors elect one, also among workers with WORKER_MONITORING_ENABLED.
    --once exits with 1 if there is a problem, --test if a receiver fails.

    Example: formrelay monitor --once --json
    """
    if once and test:
        raise typer.BadParameter("expected one of --once and --test, got both")
    if json and not (once or test):
        raise typer.BadParameter("expected --once or --test with --json, got neither")
    if once:
        _print_findings(_look(), json=json)
    elif test:
        _print_receivers(_test(), json=json)
    else:
        _run()


def _broker() -> RelayBroker:
    declare_actors()
    return get_broker()


def _run() -> None:
    settings = get_settings()
    setup_logging(settings.logging)
    broker = _broker()
    if broker.state is None:
        say_error(
            "formrelay: without a shared store, the monitor knows neither workers nor error rates, "
            "and forgets its alerts when it ends: set STATE_URL to a Redis URL"
        )
    running = Monitor(broker, settings)
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    running.start()
    stopped.wait()
    running.stop(timeout=_LIMIT)


def _look() -> list[Finding]:
    """Look once, and return the problems, however long they have lasted."""
    settings, broker = get_settings(), _broker()
    clocks = {}
    if broker.state is not None:
        try:
            broker.worker_reports().read()
            info = broker.server_info() if settings.broker.kind != "rabbitmq" else None
        except BrokerError as error:
            return [store_finding(settings, error)]
        if info is not None and info.clock_ahead is not None:
            clocks[worker_name()] = -info.clock_ahead
    facts = Collector(broker, settings, limit=_LIMIT).collect(clocks, {})
    return evaluate(facts, settings.alerts).findings


def _print_findings(found: list[Finding], *, json: bool) -> None:
    if json:
        print_json(
            [
                {
                    "rule": each.rule,
                    "severity": ABOUT[each.rule].severity,
                    "labels": dict(each.labels),
                    "summary": each.summary,
                    "todo": ABOUT[each.rule].todo,
                }
                for each in found
            ]
        )
    else:
        rows = [(ABOUT[each.rule].severity, each.rule, each.summary) for each in found]
        print_table("Problems", ["severity", "rule", "details"], rows, empty="no problems")
    if found:
        raise typer.Exit(NOT_FINE)


def _test() -> list[dict[str, Any]]:
    """Send a test alert and its end to each receiver."""
    settings = get_settings()
    setup_logging(settings.logging)
    now = SYSTEM_CLOCK.time()
    problem = finding("look_failed", "a test, sent by formrelay monitor --test", part="test")
    state = AlertState(problem, now, now, said_at=now, said=1)
    events = (Event("firing", state), Event("resolved", state, now))
    results = []
    for receiver in make_receivers(settings):
        says, began = "", time.monotonic()
        try:
            for event in events:
                id, notification = notify(event, settings.alerts.source, now)
                receiver.deliver(notification, id, now)
        except Exception as error:  # the others are tried too
            says = describe(error)
        took = time.monotonic() - began
        results.append({"receiver": receiver.name, "ok": not says, "took_s": took, "says": says})
    return results


def _print_receivers(results: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json(results)
    else:
        rows = [
            (each["receiver"], "ok" if each["ok"] else "failed", each["says"] or "took the test")
            for each in results
        ]
        print_table("Receivers of alerts", ["receiver", "state", "details"], rows, empty="")
    if not all(each["ok"] for each in results):
        raise typer.Exit(NOT_FINE)
