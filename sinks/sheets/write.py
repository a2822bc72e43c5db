"""Writes the rows of many jobs into a spreadsheet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ...core.errors import (
    DeferReason,
    FormrelayError,
    InvalidJob,
    NotNow,
    PartsFailed,
    SinkTransient,
)
from ...state.claims import Claims
from .attempt import Attempt
from .cells import as_json
from .client import SheetsClient
from .errors import SheetRefused
from .layout import Layouts
from .rows import Rows, check_rows

#: Size of a call, as Google recommends. A larger job has a call of its own.
MAX_BYTES = 2_000_000
#: Bytes of a cell in a request besides its value, and of a job besides its cells.
_CELL_BYTES, _JOB_BYTES = 60, 400
#: Number of groups in a row that may be refused while wrong jobs are searched by halving: one wrong
#: job of 500 takes 10. Otherwise a whole refused batch would take 1,000 calls.
_MAX_REFUSED = 25
_UNTRIED_WAIT = timedelta(seconds=10)


@dataclass(slots=True)
class Written:
    """The result of writing.

    Attributes:
        failures: the error of each job whose rows are not written, by its index.
        rows: number of rows that are written, now or by an earlier call.
    """

    failures: dict[int, FormrelayError] = field(default_factory=dict)
    rows: int = 0

    def raise_failures(self, number: int) -> None:
        """Raise the error of all ``number`` jobs if it is the same, otherwise ``PartsFailed``.

        Raises:
            PartsFailed: some jobs failed, or all with different errors.
        """
        errors = list(self.failures.values())
        if errors and len(errors) == number and all(error is errors[0] for error in errors):
            raise errors[0]
        if errors:
            raise PartsFailed(self.failures)


class SheetWriter:
    """Writes rows with the tokens of one connection. Thread-safe.

    Args:
        client: the client of that connection.
        claims: the store of claims, which all workers share.
        layouts: the layouts that this process knows.
    """

    def __init__(self, client: SheetsClient, claims: Claims, layouts: Layouts) -> None:
        self._client, self._claims, self._layouts = client, claims, layouts

    def write(self, spreadsheet: str, jobs: Sequence[Rows]) -> Written:
        """Write the rows of jobs, those of jobs with the same key once.

        Args:
            spreadsheet: id of the spreadsheet.
            jobs: any number. Jobs for several tabs need several calls.

        Returns:
            What is written, and the error of each other job: ``InvalidJob``, ``SheetRefused``,
            ``QuotaExceeded``, another ``NotNow`` or another ``SinkError``.
        """
        written = Written()
        leaders = _check(jobs, written)
        refused = 0
        queue = deque(_groups(jobs, list(dict.fromkeys(leaders.values()))))
        while queue:
            group = queue.popleft()
            attempt = Attempt(
                self._client, self._claims, self._layouts, spreadsheet, jobs, written.failures
            )
            try:
                halves = attempt.run(group)
                queue.extendleft(reversed(halves))
                is_refused = halves or all(index in written.failures for index in group)
                refused = refused + 1 if is_refused else 0
                if refused > _MAX_REFUSED and queue:
                    raise SinkTransient(f"Google Sheets refused {refused} calls in a row", code=400)
            except FormrelayError as error:
                if not isinstance(error, SheetRefused):  # other groups would fail too
                    untried = [index for rest in queue for index in rest]
                    queue.clear()
                    written.failures |= dict.fromkeys(untried, _untried(error))
                written.failures |= dict.fromkeys(attempt.waiting, error)
        for index, leader in leaders.items():
            if leader in written.failures:
                written.failures[index] = written.failures[leader]
            else:
                written.rows += jobs[index].number
        return written


def _untried(error: FormrelayError) -> FormrelayError:
    """The error of jobs for which no call was made after the calls of others failed.

    If Google fails at the rows of one job at each attempt, jobs of other tabs use no attempts.
    """
    if type(error) is SinkTransient and error.code != 400:  # 400: too many wrong jobs
        return NotNow(
            f"another call for this spreadsheet failed: {error}",
            after=_UNTRIED_WAIT,
            reason=DeferReason.SINK_UNAVAILABLE,
        )
    return error


def _check(jobs: Sequence[Rows], written: Written) -> dict[int, int]:
    """Check jobs. Returns, for each valid job, the first valid job with the same key."""
    leaders: dict[int, int] = {}
    first: dict[str, int] = {}
    for index, job in enumerate(jobs):
        try:
            check_rows(job)
        except InvalidJob as error:
            written.failures[index] = error
        else:
            leaders[index] = first.setdefault(job.key, index)
    return leaders


def _groups(jobs: Sequence[Rows], indexes: Sequence[int]) -> Iterator[list[int]]:
    """Groups of jobs for one call: of the same tab, headers and mode, of a limited size."""
    by_place: dict[tuple[str, int, int, bool], list[int]] = {}
    for index in indexes:
        job = jobs[index]
        place = (job.range.tab, job.header_row, job.first_column, job.is_update)
        by_place.setdefault(place, []).append(index)
    for place_indexes in by_place.values():
        group: list[int] = []
        size = 0
        for index in place_indexes:
            added = _size(jobs[index])
            if group and size + added > MAX_BYTES:
                yield group
                group, size = [], 0
            group.append(index)
            size += added
        yield group


def _size(job: Rows) -> int:
    """About the bytes of a job in a request."""
    if job.answers is not None:
        cells = len(job.answers)
        values: object = dict(job.answers)
    else:
        cells = sum(map(len, job.values))
        values = [list(line) for line in job.values]
    return len(as_json(values).encode()) + cells * _CELL_BYTES + _JOB_BYTES
