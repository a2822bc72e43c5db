"""Checks whether this installation works now: broker, shared store, workers, queues, sinks.

All checks run within one time limit, so a server that hangs cannot hang the command.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from ..brokers import NotAvailable, QueueCounts, RelayBroker
from ..config import get_settings
from ..core.errors import FormrelayError, describe
from .output import join_names
from .reachability import connect_to_api, is_embedded_clickhouse, problem_of
from .status_json import worker_to_json


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: the checked part, such as ``broker`` or ``clickhouse``.
        is_ok: whether the part works.
        says: details, in one line.
    """

    name: str
    is_ok: bool
    says: str


Check = Callable[[], Iterator[CheckResult]]


def check_health(
    open_broker: Callable[[], RelayBroker], *, sinks: bool, only_here: bool, timeout: float
) -> list[CheckResult]:
    """Check all parts at once.

    Args:
        open_broker: returns the broker, after all actors are declared.
        sinks: whether to connect to the sinks that are configured.
        only_here: whether only the workers of this machine count, and queues do not.
        timeout: seconds for all checks together; a part that takes longer is not ok.
    """
    names = ["broker", "store", "workers"] + ([] if only_here else ["queues"])
    checks: dict[Check, list[str]] = {lambda: _check_broker(open_broker, only_here): names}
    if sinks:
        checks |= {check: [name] for name, check in _configured_sinks()}
    return _run_all(checks, timeout)


def _run_all(checks: dict[Check, list[str]], timeout: float) -> list[CheckResult]:
    """Run checks in threads; a part whose check gives no result in time is not ok."""
    results: SimpleQueue[CheckResult | None] = SimpleQueue()
    for check, names in checks.items():
        # A daemon: it may hang for longer than the process runs.
        threading.Thread(
            target=_run, args=(check, names, results), name="formrelay-health", daemon=True
        ).start()
    found: dict[str, CheckResult] = {}
    running, end = len(checks), monotonic() + timeout
    try:
        while running:
            part = results.get(timeout=max(0.0, end - monotonic()))
            if part is None:
                running -= 1
            else:
                found[part.name] = part
    except Empty:
        pass
    late = f"no answer within {timeout:g} s"
    every = [name for names in checks.values() for name in names]
    return [found.get(name) or CheckResult(name, False, late) for name in every]


def _run(check: Check, names: Sequence[str], results: SimpleQueue[CheckResult | None]) -> None:
    done = set()
    try:
        for part in check():
            done.add(part.name)
            results.put(part)
    except Exception as error:  # a health check must always print a result
        says = str(error) if isinstance(error, FormrelayError) else describe(error)
        first, *others = [name for name in names if name not in done]
        results.put(CheckResult(first, False, says))
        for name in others:
            results.put(CheckResult(name, False, f"not known: the {first} does not answer"))
    finally:
        results.put(None)


# -- broker ----------------------------------------------------------------------------------


def _check_broker(open_broker: Callable[[], RelayBroker], only_here: bool) -> Iterator[CheckResult]:
    broker = open_broker()
    start = monotonic()
    broker.ping()
    took = (monotonic() - start) * 1000
    yield CheckResult("broker", True, f"{get_settings().broker.kind} answers in {took:.0f} ms")
    yield _store(broker)
    workers = _workers(broker)
    yield workers_result(workers, only_here=only_here)
    if not only_here:
        yield check_queues(broker)


def _store(broker: RelayBroker) -> CheckResult:
    state = broker.state
    if state is None:
        return CheckResult("store", True, "none is shared: set STATE_URL to a Redis URL")
    from ..state.redis.connection import translated

    try:
        with translated(state.where):
            state.client.ping()
    except FormrelayError as error:
        return CheckResult("store", False, str(error))
    return CheckResult("store", True, f"Redis at {state.where} answers")


def _workers(broker: RelayBroker) -> list[dict[str, Any]] | str:
    """Return the worker processes, or why they are not known."""
    try:
        return [worker_to_json(broker, worker) for worker in broker.inspector.workers()]
    except NotAvailable as error:
        return str(error)


def workers_result(workers: list[dict[str, Any]] | str, *, only_here: bool) -> CheckResult:
    """Check that a worker is alive, and that no live worker hangs or has lost the broker.

    Args:
        workers: the worker processes as JSON, or why they are not known.
        only_here: whether only the workers of this machine count.
    """
    if isinstance(workers, str):
        return CheckResult("workers", not only_here, f"not known: {workers}")
    where = ""
    if only_here:
        host = socket.gethostname()
        workers = [each for each in workers if (each["name"] or "").rpartition(":")[0] == host]
        where = f" on {host}"
    alive = [each for each in workers if each["alive"]]
    if not alive:
        return CheckResult("workers", False, f"none is alive{where}: run formrelay worker")
    says = [f"{len(alive)} alive{where}"]
    if hanging := [each["name"] for each in alive if each["hangs"]]:
        says.append(f"a consumer hangs: {join_names(hanging)}")
    cut_off = [each for each in alive if each["problem"] and not each["hangs"]]
    if cut_off:
        names = join_names([each["name"] for each in cut_off])
        says.append(f"without the broker: {names} ({cut_off[0]['problem']})")
    if silent := [each["name"] or each["id"] for each in workers if not each["alive"]]:
        says.append(f"silent: {join_names(silent)}")
    return CheckResult("workers", not hanging and not cut_off, "; ".join(says))


def check_queues(broker: RelayBroker, queues: Sequence[str] | None = None) -> CheckResult:
    """Check that a live worker consumes each queue with jobs; paused queues do not count.

    Args:
        queues: the queues to check; None checks every queue that can be listed.
    """
    counts = broker.inspector.counts_of(broker.inspector.queues() if queues is None else queues)
    try:
        consumed = broker.inspector.consumed({each.queue for each in counts})
    except NotAvailable:
        consumed = None
    return queues_result(counts, consumed)


def queues_result(counts: Sequence[QueueCounts], consumed: Collection[str] | None) -> CheckResult:
    """Compare the queues that have jobs with the queues that workers consume.

    Args:
        consumed: names of the consumed queues; None if they are not known.
    """
    paused = [each.queue for each in counts if each.paused]
    notes = [f"paused: {join_names(paused)}"] if paused else []
    if consumed is None:
        return CheckResult("queues", True, "; ".join([f"{len(counts)} known", *notes]))
    stuck, empty = [], []
    for each in counts:
        if each.queue in consumed or each.paused:
            continue
        jobs = each.waiting + (each.scheduled or 0)  # Redis: a worker makes due jobs waiting
        if jobs:
            stuck.append(f"{each.queue} ({jobs:,} job{'' if jobs == 1 else 's'})")
        else:
            empty.append(each.queue)
    if empty:
        notes.append(f"empty and without a worker: {join_names(empty)}")
    if stuck:
        return CheckResult(
            "queues", False, "; ".join([f"without a worker: {join_names(stuck)}", *notes])
        )
    return CheckResult("queues", True, "; ".join(["each queue with jobs has a worker", *notes]))


# -- sinks -----------------------------------------------------------------------------------


def _configured_sinks() -> Iterator[tuple[str, Check]]:
    settings = get_settings()
    if settings.clickhouse.url is not None:
        yield "clickhouse", _clickhouse
    if settings.api.url is not None:
        yield "api", _api
    if settings.smtp.url is not None:
        yield "smtp", _smtp
    if settings.sheets.is_configured:
        yield "sheets", _sheets


def _clickhouse() -> Iterator[CheckResult]:
    from ..actors.resources import clickhouse

    if is_embedded_clickhouse(get_settings().clickhouse.secret("url")):
        yield CheckResult("clickhouse", True, "embedded: only the worker of events can open it")
        return
    clickhouse().ping()
    yield CheckResult("clickhouse", True, "answers")


def _api() -> Iterator[CheckResult]:
    section = get_settings().api
    parts = urlsplit(str(section.url))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"{parts.hostname}:{port}"
    try:
        connect_to_api(get_settings())
    except (OSError, ValueError) as error:  # ValueError: a host name that IDNA refuses
        yield CheckResult(
            "api", False, f"expected {where} to accept a connection: {problem_of(error)}"
        )
        return
    yield CheckResult("api", True, f"{where} accepts connections (no request was sent)")


def _smtp() -> Iterator[CheckResult]:
    from ..actors.emails.resources import make_account
    from ..sinks.smtp.probe import try_login

    account = make_account(get_settings())
    *_, last = try_login(account)
    if last.is_ok:
        yield CheckResult("smtp", True, f"{account.host}:{account.port} answers")
    else:
        yield CheckResult("smtp", False, f"{last.name}: {last.says}")


def _sheets() -> Iterator[CheckResult]:
    from ..actors.sheets.resources import sheet_resources

    account = sheet_resources().connections.account
    if account is None:
        yield CheckResult("sheets", True, "no service account: each connection has its own tokens")
        return
    account.mint()
    yield CheckResult("sheets", True, "Google accepts the service account")
