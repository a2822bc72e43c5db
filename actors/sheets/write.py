"""Writes the rows of a batch of jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import BrokerError, DeferReason, NotNow, PartsFailed, SinkTransient, SinkUnready
from ...sinks.sheets import SheetsClient, SheetWriter, Written
from ...sinks.sheets.client import CallKind
from ...sinks.sheets.errors import QuotaExceeded, TokenRefused, store_failed
from ...state import make_claims
from ..model import Job
from ..progress import Progress
from .resources import SheetResources, sheet_resources
from .schema import Auth, SheetJob, key_of

#: Seconds during which a batch starts calls. The last call may take another 190 s.
_BEGIN_CALLS_FOR = 400.0


def write_jobs(jobs: Sequence[Job[SheetJob]]) -> None:
    """Write the rows of jobs, with as few calls for each spreadsheet as possible.

    Raises:
        PartsFailed: some jobs failed, each with its own error.
        FormrelayError: all jobs failed for the same reason; they stay together.
    """
    written = Written()
    for indexes in _groups(jobs):
        group = [jobs[index] for index in indexes]
        try:
            found = _write_group(group)
        except NotNow as error:
            written.failures |= dict.fromkeys(indexes, error)
        else:
            written.rows += found.rows
            written.failures |= {indexes[place]: each for place, each in found.failures.items()}
    _raise_failures(jobs, written)


def _raise_failures(jobs: Sequence[Job[SheetJob]], written: Written) -> None:
    """Raise the errors of a batch.

    A large batch that failed as a whole stays together, as one message. The jobs of a small batch
    are settled one by one, so that they are in a larger batch the next time: after a pause, many
    small batches would take a call each.
    """
    failures = written.failures
    rows = sum(jobs[index].payload.number for index in failures)
    if failures and rows <= get_settings().sheets.batch_size // 2:
        raise PartsFailed(failures)
    written.raise_failures(len(jobs))


def progress_of_rows(job: Job[SheetJob]) -> Progress:
    """Tell how many rows of a job are known to be written: all or none.

    Raises:
        BrokerError: the shared store failed.
    """
    key, sheet = key_of(job, get_settings().sheets.queue), job.payload.spreadsheet_id
    number = job.payload.number
    written = number if make_claims(get_broker().state).done(sheet, [key]) else 0
    return Progress("rows", {"written": written, "waiting": number - written})


def _groups(jobs: Sequence[Job[SheetJob]]) -> Iterator[list[int]]:
    """Group the indexes of jobs by spreadsheet and connection: a direct call may mix them."""
    places: dict[tuple[str, str], list[int]] = {}
    for index, job in enumerate(jobs):
        place = (job.payload.spreadsheet_id, job.payload.connection)
        places.setdefault(place, []).append(index)
    yield from places.values()


def _write_group(jobs: Sequence[Job[SheetJob]]) -> Written:
    """Write the rows of jobs for one spreadsheet, with one connection.

    Raises:
        NotNow: the spreadsheet cannot be written to now.
    """
    resources = sheet_resources()
    queue = get_settings().sheets.queue
    first = jobs[0].payload
    rows = [
        job.payload.rows(
            key_of(job, queue),
            is_doubtful=job.attempt > 1 or job.is_redelivered,
            order=job.sent_at,
        )
        for job in jobs
    ]
    number = sum(job.payload.number for job in jobs)
    auth = _newest(jobs)
    with resources.slots.hold(first.spreadsheet_id, number):
        calls = _Calls(resources, first.connection, auth)
        client = SheetsClient(
            resources.connections.token_of(first.connection, auth),
            resources.transport,
            base_url=resources.api_url,
            before_call=calls.begin,
        )
        writer = SheetWriter(client, resources.claims, resources.layouts)
        written = writer.write(first.spreadsheet_id, rows)
    calls.learn(written)
    _defer_refused(written, resources, first.connection, auth)
    return written


def _defer_refused(
    written: Written, resources: SheetResources, connection: str, auth: Auth | None
) -> None:
    """Let jobs wait whose access token was refused: that says nothing about the jobs.

    An access token of a job may belong to another Google project: if the API is disabled there,
    that concerns no other job.
    """
    kinds: tuple[type[SinkTransient], ...] = (TokenRefused,)
    if auth is not None and auth.access_token is not None:
        kinds += (SinkUnready,)
    refused = [each for each in written.failures.values() if isinstance(each, kinds)]
    if refused:
        later = resources.connections.not_now(connection, refused[0])
        written.failures = {
            index: later if isinstance(each, kinds) else each
            for index, each in written.failures.items()
        }


def _newest(jobs: Sequence[Job[SheetJob]]) -> Auth | None:
    """The tokens of these jobs that end last."""
    found = [job.payload.auth for job in jobs if job.payload.auth is not None]
    return max(found, key=lambda auth: auth.expiry_date or 0, default=None)


class _Calls:
    """The calls that write a batch."""

    def __init__(self, resources: SheetResources, connection: str, auth: Auth | None) -> None:
        self._resources, self._connection = resources, connection
        # Nothing tells which Google project an access token belongs to.
        self._is_foreign = auth is not None and auth.refresh_token is None
        self._started = SYSTEM_CLOCK.monotonic()
        self._last: CallKind = "write"

    def begin(self, kind: CallKind) -> None:
        """Begin a call.

        Raises:
            NotNow: it has to wait.
        """
        self._last = kind
        if get_broker().is_stopping:
            raise NotNow("the worker is stopping", after=timedelta(0), reason=DeferReason.STOPPING)
        if SYSTEM_CLOCK.monotonic() - self._started > _BEGIN_CALLS_FOR:
            raise NotNow(
                "the batch takes too long", after=timedelta(seconds=1), reason=DeferReason.BUSY
            )
        try:
            self._resources.quotas.take(kind, self._connection)
        except BrokerError as error:
            raise store_failed(error) from None

    def learn(self, written: Written) -> None:
        """Use what a refused call says about the quotas."""
        for error in written.failures.values():
            if isinstance(error, QuotaExceeded):
                try:
                    self._resources.quotas.learn(
                        error, self._last, self._connection, is_foreign=self._is_foreign
                    )
                except BrokerError as failure:
                    raise store_failed(failure) from None
                return
