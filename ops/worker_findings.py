"""What ``formrelay doctor`` finds about worker processes, by their reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from .. import __version__
from ..brokers import get_broker
from ..state.worker_reports import WorkerReport
from .findings import Finding

#: Maximum number of workers that a finding names.
_NAMED = 5


def check_reports() -> Iterator[Finding]:
    """Check that workers can report, and have one version."""
    broker = get_broker()
    if broker.state is None:
        says = "the history of queues and the reports of workers are missing"
        yield Finding("workers", "weak", f"{says}: set STATE_URL to a Redis URL")
        return
    yield from findings_of(broker.worker_reports().read())


def findings_of(reports: Sequence[WorkerReport]) -> Iterator[Finding]:
    """Return the findings about the versions of live workers."""
    live = [each for each in reports if not each.is_silent]
    names: defaultdict[str, list[str]] = defaultdict(list)
    for report in live:
        names[report.version].append(report.name)
    if len(names) > 1:
        listed = "; ".join(f"{version}: {_listed(found)}" for version, found in names.items())
        says = f"workers have different versions ({listed}): finish the upgrade"
        yield Finding("workers", "weak", says)
    elif names and __version__ not in names:
        (version,) = names
        says = f"workers have version {version}, this command has {__version__}: upgrade the older"
        yield Finding("workers", "weak", says)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
