"""What ``formrelay doctor`` finds about the versions of workers, by their reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ... import __version__
from ...brokers import get_broker
from ...state.worker_reports import WorkerReport
from ..output import join_names
from .finding import Finding


def check_reports() -> Iterator[Finding]:
    """Check that workers can report, and have one version."""
    broker = get_broker()
    if broker.state is None:
        says = (
            "the history of queues and the reports of workers are missing, and each process has "
            "an audit log and tasks of its own"
        )
        yield Finding("workers", "weak", f"{says}: set STATE_URL to a Redis URL")
        return
    yield from check_versions_of(broker.worker_reports().read())


def check_versions_of(reports: Sequence[WorkerReport]) -> Iterator[Finding]:
    """Compare the versions of the live workers with each other, and with that of this command."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in reports:
        if report.is_silent:
            continue
        names[report.version].append(report.name)
    if len(names) > 1:
        listed = "; ".join(f"{version}: {join_names(found)}" for version, found in names.items())
        says = f"workers have different versions ({listed}): finish the upgrade"
        yield Finding("workers", "weak", says)
    elif names and __version__ not in names:
        (version,) = names
        says = f"workers have version {version}, this command has {__version__}: upgrade the older"
        yield Finding("workers", "weak", says)
