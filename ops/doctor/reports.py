"""What ``formrelay doctor`` finds about worker processes, by their reports."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ... import __version__
from ...brokers import get_broker
from ...state.worker_reports import WorkerReport
from ..output import age, join_names
from ..status_json import list_workers
from .finding import Finding

#: Maximum number of silent workers that have a finding each.
_NAMED = 5


def check_reports() -> Iterator[Finding]:
    """Check that workers can report, do report, and have one version."""
    broker = get_broker()
    if broker.state is None:
        says = (
            "the history of queues and the reports of workers are missing, and each process has "
            "an audit log and tasks of its own"
        )
        yield Finding("workers", "weak", f"{says}: set STATE_URL to a Redis URL")
        return
    reports = broker.worker_reports().read()
    # Workers without a heartbeat are named by another check.
    others = {each["name"] for each in list_workers(broker) or () if not each["alive"]}
    yield from silent_workers([each for each in reports if each.name not in others])
    yield from findings_of(reports)


def silent_workers(reports: Sequence[WorkerReport]) -> Iterator[Finding]:
    """Return the findings about workers that stopped reporting."""
    silent = [each for each in reports if each.is_silent]
    for report in silent[:_NAMED]:
        says = f"{report.name} sent its last report {age(report.age)} ago"
        yield Finding("workers", "weak", f"{says}: {_likely_cause(report.name)}")
    if (more := len(silent) - _NAMED) > 0:
        yield Finding("workers", "weak", f"{more} more workers do not report; read their logs")


def _likely_cause(name: str) -> str:
    """Return why a worker is silent, and what to do."""
    host, _, pid = name.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return "it was killed or hangs; read its log, end its process if it still runs"
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return "its process has ended; nothing to do if others run its queues"
    except OSError:
        pass
    return "its process still runs, but hangs or cannot reach the store; read its log, then end it"


def findings_of(reports: Sequence[WorkerReport]) -> Iterator[Finding]:
    """Return the findings about live workers: hanging consumers, lost brokers, versions."""
    live = [each for each in reports if not each.is_silent]
    for report in live:
        if report.hangs:
            says = f"a consumer of {report.name} has not moved for {age(report.stalled)}"
            todo = "its jobs wait; look at it with py-spy dump, then end the process"
            yield Finding("workers", "bad", f"{says}: {todo}")
        elif report.problem:
            says = f"{report.name} cannot use the broker: {report.problem}"
            yield Finding("workers", "bad", f"{says}; check the network of its machine")
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in live:
        names[report.version].append(report.name)
    if len(names) > 1:
        listed = "; ".join(f"{version}: {join_names(found)}" for version, found in names.items())
        says = f"workers have different versions ({listed}): finish the upgrade"
        yield Finding("workers", "weak", says)
    elif names and __version__ not in names:
        (version,) = names
        says = f"workers have version {version}, this command has {__version__}: upgrade the older"
        yield Finding("workers", "weak", says)
