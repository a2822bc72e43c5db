"""The rules that find problems: pure functions of facts and settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, TypeAlias

from ...config import AlertSettings
from ...config.alerts import RULES, number_of
from ...core.printable import shown_id
from ...state.worker_reports import WorkerReport
from ..health.worker_states import WorkerState, judge_report
from ..output import age
from .facts import Facts, QueueFacts
from .findings import Finding, finding

#: Maximum number of findings of a rule. The others become one finding.
MAX_FINDINGS = 20
#: Seconds without an accepted alert after which a receiver counts as failing.
_RECEIVER_SECONDS = 120.0
#: The value of a label that stands for the findings beyond the maximum.
_OTHERS = "(others)"


class Evaluation(NamedTuple):
    """The result of all rules.

    Attributes:
        findings: the problems.
        unknown: rules whose facts could not be read: their problems may exist or not.
    """

    findings: list[Finding]
    unknown: frozenset[str]


def evaluate(facts: Facts, settings: AlertSettings, active: Collection[str] = ()) -> Evaluation:
    """Apply all rules that are switched on.

    Args:
        active: keys of the alerts that exist, which come first if a rule has too many findings.
    """
    findings: list[Finding] = []
    unknown = set()
    for rule in RULES:
        if not settings.is_on(rule) or rule not in _RULES:
            continue
        found = _RULES[rule](facts, settings)
        if found is None:
            unknown.add(rule)
        else:
            findings += _limited(list(found), active)
    return Evaluation(findings, frozenset(unknown))


def _limited(found: list[Finding], active: Collection[str]) -> list[Finding]:
    if len(found) <= MAX_FINDINGS:
        return found
    found.sort(key=lambda each: (each.key not in active, each.labels))
    rule, number = found[0].rule, len(found) - MAX_FINDINGS
    name = found[0].labels[0][0]
    others = finding(rule, f"{number:,} more alerts of {rule}", **{name: _OTHERS})
    return [*found[:MAX_FINDINGS], others]


Findings: TypeAlias = Iterable[Finding] | None


# -- queues ------------------------------------------------------------------------------------


def _of_queues(
    check: Callable[[QueueFacts, AlertSettings], str | None], rule: str
) -> Callable[[Facts, AlertSettings], Findings]:
    """Make a rule that checks each queue: ``check`` returns a summary, or None."""

    def apply(facts: Facts, settings: AlertSettings) -> Findings:
        if facts.queues is None:
            return None
        checked = ((each, check(each, settings)) for each in facts.queues)
        return [finding(rule, says, queue=each.queue) for each, says in checked if says is not None]

    return apply


def _queue_too_long(facts: QueueFacts, settings: AlertSettings) -> str | None:
    limit = number_of(settings.max_waiting, facts.queue)
    if not limit or facts.waiting < limit:
        return None
    paused = "; the queue is paused" if facts.paused else ""
    return f"{facts.waiting:,} jobs wait in {facts.queue} (limit {limit:,.0f}){paused}"


def _oldest_waiting(facts: QueueFacts, settings: AlertSettings) -> str | None:
    limit = number_of(settings.max_oldest_seconds, facts.queue)
    if not limit or facts.oldest_seconds is None or facts.oldest_seconds < limit:
        return None
    paused = "; the queue is paused" if facts.paused else ""
    oldest = age(facts.oldest_seconds)
    return f"the oldest job in {facts.queue} has waited {oldest} (limit {age(limit)}){paused}"


def _without_worker(facts: QueueFacts, _settings: AlertSettings) -> str | None:
    jobs = facts.waiting + (facts.scheduled or 0)
    if facts.has_worker is not False or facts.paused or not jobs:
        return None
    return f"{facts.queue} has {jobs:,} job{'' if jobs == 1 else 's'} and no live worker"


def _late(facts: QueueFacts, settings: AlertSettings) -> str | None:
    limit = number_of(settings.max_late_seconds, facts.queue)
    late = facts.late_seconds
    # Without a worker nothing is started, which is another rule.
    if not limit or late is None or late < limit or facts.paused or facts.has_worker is False:
        return None
    return f"a scheduled job of {facts.queue} has been due for {age(late)} (limit {age(limit)})"


def _error_rate(facts: Facts, settings: AlertSettings) -> Findings:
    if facts.rates is None:
        return None
    found = []
    for queue, rate in facts.rates.items():
        limit = number_of(settings.max_error_percent, queue)
        if not limit or rate.attempts < settings.min_attempts:
            continue
        percent = 100 * rate.failed / rate.attempts
        if percent > limit:
            says = f"{percent:.1f} % of {rate.attempts:,} attempts of {queue} failed in the last "
            says += f"{age(settings.window.total_seconds())} (limit {limit:g} %)"
            found.append(finding("error_rate", says, queue=queue))
    return found


def _dead_letters(facts: Facts, settings: AlertSettings) -> Findings:
    if facts.queues is None and facts.rates is None:
        return None
    counts: dict[str, int] = defaultdict(int, facts.new_dead)
    for queue, rate in (facts.rates or {}).items():
        counts[queue] = max(counts[queue], rate.dead)
    found = []
    for queue, count in sorted(counts.items()):
        limit = number_of(settings.max_dead_letters, queue)
        if limit and count >= limit:
            says = f"{count:,} new dead letters in {queue} in the last "
            says += f"{age(settings.window.total_seconds())} (limit {limit:,.0f})"
            found.append(finding("dead_letters_growing", says, queue=queue))
    return found


# -- workers -----------------------------------------------------------------------------------


def _of_workers(
    state: WorkerState, rule: str, says: Callable[[WorkerReport], str]
) -> Callable[[Facts, AlertSettings], Findings]:
    """Make a rule that finds each worker in a state; ``says`` returns the end of its summary."""

    def apply(facts: Facts, _settings: AlertSettings) -> Findings:
        if facts.workers is None:
            return None
        return [
            finding(rule, f"worker {each.name} {says(each)}", worker=each.name)
            for each in facts.workers
            if judge_report(each).state is state
        ]

    return apply


def _crashed(report: WorkerReport) -> str:
    return f"was killed or has crashed; its last report is {age(report.age)} old"


def _silent(report: WorkerReport) -> str:
    says = "its machine is gone, or it hangs or cannot reach the store"
    return f"has not reported for {age(report.age)}: {says}"


def _hangs(report: WorkerReport) -> str:
    return f"hangs: a consumer has not asked for a job for {age(report.stalled)}"


def _cut_off(report: WorkerReport) -> str:
    return f"cannot use the broker: {report.problem}"


def _sink_paused(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.workers is None:
        return None
    alive = [each for each in facts.workers if not each.is_silent]
    paused: dict[str, int] = defaultdict(int)
    for worker in alive:
        for sink in {each.sink for each in worker.paused if each.is_failing}:
            paused[sink] += 1
    return [
        finding(
            "sink_paused",
            f"the circuit breaker of {sink} is open in {number:,} of {len(alive):,} workers",
            sink=sink,
        )
        for sink, number in sorted(paused.items())
    ]


# -- servers, sinks, endpoints -------------------------------------------------------------------


def _broker(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.broker is None:
        return None
    if not facts.broker:
        return []
    return [finding("broker_unreachable", facts.broker, broker=facts.broker_kind)]


def _sinks(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.sinks is None:
        return None
    return [
        finding("sink_unreachable", f"{sink} cannot be reached: {problem}", sink=sink)
        for sink, problem in facts.sinks.items()
        if problem
    ]


def _breakers(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.endpoints is None:
        return None
    return [
        finding(
            "breaker_open",
            f"the circuit breaker of endpoint {shown_id(each.id)} ({each.host}) is open after "
            f"{each.failures:,} failures in a row",
            endpoint=shown_id(each.id),
            host=each.host,
        )
        for each in facts.endpoints
        if each.open_until is not None and each.failures and each.disabled_at is None
    ]


def _disabled(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.endpoints is None:
        return None
    return [
        finding(
            "endpoint_disabled",
            f"endpoint {shown_id(each.id)} ({each.host}) is disabled: its webhooks are "
            "dead-lettered",
            endpoint=shown_id(each.id),
            host=each.host,
        )
        for each in facts.endpoints
        if each.disabled_at is not None
    ]


def _connections(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.connections is None:
        return None
    return [
        finding(
            "connection_paused",
            f"the Google connection {shown_id(id)} is paused: {cause}",
            connection=shown_id(id),
        )
        for id, cause in sorted(facts.connections.items())
    ]


def _clocks(facts: Facts, settings: AlertSettings) -> Findings:
    if facts.clocks is None:
        return None
    limit = settings.max_clock_skew.total_seconds()
    return [
        finding(
            "clock_skew",
            f"the clock of {host} is {abs(ahead):,.1f} s {'ahead' if ahead > 0 else 'behind'} "
            f"(limit {limit:g} s)",
            host=host,
        )
        for host, ahead in sorted(facts.clocks.items())
        if abs(ahead) >= limit
    ]


def _receivers(facts: Facts, _settings: AlertSettings) -> Findings:
    if facts.receivers is None:
        return None
    return (
        finding(
            "receiver_failing",
            f"the receiver {name} has not taken alerts for {age(seconds)}; they are kept",
            receiver=name,
        )
        for name, seconds in sorted(facts.receivers.items())
        if seconds >= _RECEIVER_SECONDS
    )


def _failed(facts: Facts, _settings: AlertSettings) -> Findings:
    return [
        finding("look_failed", f"the monitor cannot look at {part}: {problem}", part=part)
        for part, problem in sorted(facts.problems.items())
    ]


#: ``store_unreachable`` is found by the monitor itself, which has no other facts then.
_RULES: dict[str, Callable[[Facts, AlertSettings], Findings]] = {
    "broker_unreachable": _broker,
    "worker_crashed": _of_workers(WorkerState.DIED, "worker_crashed", _crashed),
    "worker_silent": _of_workers(WorkerState.SILENT, "worker_silent", _silent),
    "worker_hangs": _of_workers(WorkerState.HANGS, "worker_hangs", _hangs),
    "worker_without_broker": _of_workers(WorkerState.NO_BROKER, "worker_without_broker", _cut_off),
    "queue_without_worker": _of_queues(_without_worker, "queue_without_worker"),
    "queue_too_long": _of_queues(_queue_too_long, "queue_too_long"),
    "oldest_waiting": _of_queues(_oldest_waiting, "oldest_waiting"),
    "scheduler_late": _of_queues(_late, "scheduler_late"),
    "error_rate": _error_rate,
    "dead_letters_growing": _dead_letters,
    "sink_unreachable": _sinks,
    "sink_paused": _sink_paused,
    "breaker_open": _breakers,
    "endpoint_disabled": _disabled,
    "connection_paused": _connections,
    "clock_skew": _clocks,
    "receiver_failing": _receivers,
    "look_failed": _failed,
}
