"""``sheets.update``: the actor."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ...config import Settings
from ...sinks.sheets.write import MAX_BYTES
from ..job import job_actor
from ..model import Job
from ..progress import Progress
from ..resources import sheets_throttle
from .schema import SheetJob, batch_key_of, sheet_to_wire, weight_of

#: Google ends a call after three minutes, and a batch may take several calls. A batch that is
#: interrupted is tried again, and its rows are written once.
_TIME_LIMIT = timedelta(seconds=890)


def _options(_: Settings) -> dict[str, Any]:
    return {
        "batch_weight": weight_of,
        "batch_key": batch_key_of,
        "batch_bytes": MAX_BYTES,
        "time_limit": int(_TIME_LIMIT.total_seconds() * 1000),
    }


def _progress(job: Job[SheetJob]) -> Progress:
    from .write import progress_of_rows

    return progress_of_rows(job)


@job_actor(
    "sheets.update",
    schema=SheetJob,
    worker=lambda settings: settings.sheets,
    batches=True,
    to_wire=sheet_to_wire,
    throttle=sheets_throttle,
    options=_options,
    progress=_progress,
)
def update_sheet(jobs: list[Job[SheetJob]]) -> None:
    """Write the rows of jobs into their spreadsheets, each job's rows once."""
    from .write import write_jobs

    write_jobs(jobs)
