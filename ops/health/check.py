"""Checks whether this installation works now: broker, shared store, workers, queues, sinks.

All checks run within one time limit, so a server that hangs cannot hang the command.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from ...brokers import NotAvailable, QueueCounts, RelayBroker
from ...config import get_settings
from ...core.errors import FormrelayError, describe
from ..output import join_names
from ..probes import answers_within
from ..reachability import connect_to_api, is_embedded_clickhouse, problem_of
from .status_json import workers_to_json
from .worker_states import FAILING, WorkerState, jobs, problems, without_worker


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


@dataclass(slots=True)
class Health:
    """The results of all checks.

    Attributes:
        parts: a result for each part.
        workers: the worker processes as JSON; None if they are not known.
        problems: what does not work, from :func:`.worker_states.problems`.
    """

    parts: list[CheckResult] = field(default_factory=list)
    workers: list[dict[str, Any]] | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """Whether every part works."""
        return all(part.is_ok for part in self.parts)


Check = Callable[[], Iterator[CheckResult]]


def check_health(
    open_broker: Callable[[], RelayBroker], *, sinks: bool, only_here: bool, timeout: float
) -> Health:
    """Check all parts at once.

    Args:
        open_broker: returns the broker, after all actors are declared.
        sinks: whether to connect to the sinks that are configured.
        only_here: whether only the workers of this machine count, and queues do not.
        timeout: seconds for all checks together; a part that takes longer is not ok.
    """
    health = Health()
    of_broker = partial(_check_broker, open_broker, only_here, health)
    checks: dict[tuple[str, ...], Check] = {
        ("broker", "store", "workers") + (() if only_here else ("queues",)): of_broker
    }
    if sinks:
        checks |= {(name,): check for name, check in _configured_sinks()}
    probes = {names: partial(_run, check, names) for names, check in checks.items()}
    found = {part.name: part for _, part in answers_within(timeout, probes)}
    late = f"no answer within {timeout:g} s"
    every = [name for names in checks for name in names]
    health.parts = [found.get(name) or CheckResult(name, False, late) for name in every]
    return health


def _run(check: Check, names: Sequence[str]) -> Iterator[CheckResult]:
    """Run a check; an error becomes the result of the parts that are still without one."""
    done = set()
    try:
        for part in check():
            done.add(part.name)
            yield part
    except Exception as error:  # a health check must always print a result
        says = str(error) if isinstance(error, FormrelayError) else describe(error)
        first, *others = [name for name in names if name not in done]
        yield CheckResult(first, False, says)
        for name in others:
            yield CheckResult(name, False, f"not known: the {first} does not answer")


# -- broker ----------------------------------------------------------------------------------


def _check_broker(
    open_broker: Callable[[], RelayBroker], only_here: bool, health: Health
) -> Iterator[CheckResult]:
    broker = open_broker()
    start = monotonic()
    broker.ping()
    took = (monotonic() - start) * 1000
    yield CheckResult("broker", True, f"{get_settings().broker.kind} answers in {took:.0f} ms")
    yield _store(broker)
    workers = _workers(broker)
    if only_here and not isinstance(workers, str):
        workers = [each for each in workers if _is_here(each)]
    if not isinstance(workers, str):
        health.workers = workers
    yield workers_result(workers, only_here=only_here)
    queues, stuck = (None, []) if only_here else check_queues(broker)
    health.problems = problems(health.workers or [], stuck)
    if queues is not None:
        yield queues


def _store(broker: RelayBroker) -> CheckResult:
    state = broker.state
    if state is None:
        return CheckResult("store", True, "none is shared: set STATE_URL to a Redis URL")
    from ...state.redis.connection import translated

    try:
        with translated(state.where):
            state.client.ping()
    except FormrelayError as error:
        return CheckResult("store", False, str(error))
    return CheckResult("store", True, f"Redis at {state.where} answers")


def _workers(broker: RelayBroker) -> list[dict[str, Any]] | str:
    """Return the worker processes, or why they are not known."""
    try:
        return workers_to_json(broker)
    except NotAvailable as error:
        return str(error)


def _is_here(worker: dict[str, Any]) -> bool:
    return (worker["name"] or "").rpartition(":")[0] == socket.gethostname()


def workers_result(workers: list[dict[str, Any]] | str, *, only_here: bool) -> CheckResult:
    """Check that a worker is alive, and that no worker hangs or has lost the broker.

    Args:
        workers: the worker processes as JSON, or why they are not known.
        only_here: whether they are the workers of this machine only.
    """
    if isinstance(workers, str):
        return CheckResult("workers", not only_here, f"not known: {workers}")
    where = f" on {socket.gethostname()}" if only_here else ""
    alive = [each for each in workers if each["alive"]]
    named = defaultdict(list)
    for each in workers:
        named[each["state"]].append(each)
    said = {
        state: f"{text}: {join_names([each['name'] or each['id'] for each in named[state]])}"
        for state, text in _SAID.items()
        if named[state]
    }
    if cut_off := named[WorkerState.NO_BROKER]:
        said[WorkerState.NO_BROKER] += f" ({cut_off[0]['why']})"
    if alive:
        first = f"{len(alive)} alive{where}"
    elif named[WorkerState.HANGS] or cut_off:
        first = f"none takes jobs{where}"
    else:
        first = f"none is alive{where}: run formrelay worker"
    is_ok = bool(alive) and not any(named[state] for state in FAILING)
    return CheckResult("workers", is_ok, "; ".join([first, *said.values()]))


_SAID = {
    WorkerState.HANGS: "hangs",
    WorkerState.NO_BROKER: "without the broker",
    WorkerState.DIED: "died",
    WorkerState.SILENT: "silent",
}


def check_queues(
    broker: RelayBroker, queues: Sequence[str] | None = None
) -> tuple[CheckResult, list[QueueCounts]]:
    """Check that a live worker consumes each queue with jobs; paused queues do not count.

    Args:
        queues: the queues to check; None checks every queue that can be listed.

    Returns:
        The result, and the queues with jobs that no live worker consumes.
    """
    counts = broker.inspector.counts_of(broker.inspector.queues() if queues is None else queues)
    try:
        consumed = broker.inspector.consumed({each.queue for each in counts})
    except NotAvailable:
        return queues_result(counts, None), []
    return queues_result(counts, consumed), without_worker(counts, consumed)


def queues_result(counts: Sequence[QueueCounts], consumed: Collection[str] | None) -> CheckResult:
    """Compare the queues that have jobs with the queues that workers consume.

    Args:
        consumed: names of the consumed queues; None if they are not known.
    """
    paused = [each.queue for each in counts if each.paused]
    notes = [f"paused: {join_names(paused)}"] if paused else []
    if consumed is None:
        return CheckResult("queues", True, "; ".join([f"{len(counts)} known", *notes]))
    stuck = [
        f"{each.queue} ({jobs(each):,} job{'' if jobs(each) == 1 else 's'})"
        for each in without_worker(counts, consumed)
    ]
    empty = [
        each.queue
        for each in counts
        if each.queue not in consumed and not each.paused and not jobs(each)
    ]
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
    from ...actors.resources import clickhouse

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
    from ...actors.emails.resources import make_account
    from ...sinks.smtp.probe import try_login

    account = make_account(get_settings())
    *_, last = try_login(account)
    if last.is_ok:
        yield CheckResult("smtp", True, f"{account.host}:{account.port} answers")
    else:
        yield CheckResult("smtp", False, f"{last.name}: {last.says}")


def _sheets() -> Iterator[CheckResult]:
    from ...actors.sheets.resources import sheet_resources

    account = sheet_resources().connections.account
    if account is None:
        yield CheckResult("sheets", True, "no service account: each connection has its own tokens")
        return
    account.mint()
    yield CheckResult("sheets", True, "Google accepts the service account")
