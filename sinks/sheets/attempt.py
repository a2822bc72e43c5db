"""Writes the rows of a group of jobs for one tab, each job once: see :mod:`...state.claims`.

A call is one atomic ``batchUpdate``: entries that make earlier calls of these jobs impossible
(fences), the entry of this call, new columns, and a request for the rows of each job. If Google
refuses it (400), the entries tell whether an earlier call was executed; then the call is repeated
without the jobs of that call. Otherwise the layout is read again, or the wrong job is left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...core.errors import (
    BrokerError,
    DeferReason,
    FormrelayError,
    InvalidJob,
    NotNow,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from ...state.claims import ClaimResult, Claims, SheetFacts
from .cells import time_zone
from .client import SheetsClient
from .columns import Binding, bind, make_room, mark_tab
from .errors import BadBatch, SheetRefused, TokenRefused, store_failed
from .layout import FIELDS, Layout, Layouts
from .metadata import VOID, create_call, delete_call, new_token, short_digest, token_id
from .ranges import column_letters, quoted
from .read_back import find_written
from .rows import Rows, Typed, make_typed

logger = logging.getLogger("formrelay.workers")

#: A call whose claim is older is not sent: its fences may be gone when it arrives.
_MAX_CLAIM_AGE = 60.0
#: Number of calls that other workers may spoil before the jobs are deferred.
_MAX_ROUNDS = 10
_WAIT = timedelta(seconds=5)
#: Transient errors of calls that were not sent, or refused.
_WITHOUT_EFFECT = (SinkUnavailable, SinkUnready, TokenRefused)
#: Kinds of refusals that concern all jobs of a group.
_OF_ALL = {"too_many_cells", "not_a_spreadsheet"}


class Attempt:
    """One attempt to write a group of jobs.

    Args:
        jobs: all jobs; a group consists of indexes.
        failures: gets the errors of jobs that are wrong.
    """

    def __init__(
        self,
        client: SheetsClient,
        claims: Claims,
        layouts: Layouts,
        spreadsheet: str,
        jobs: Sequence[Rows],
        failures: dict[int, FormrelayError],
    ) -> None:
        self._client, self._claims, self._layouts = client, claims, layouts
        self._spreadsheet, self._jobs, self._failures = spreadsheet, jobs, failures
        self._can_evict = True
        self._is_fresh = False
        #: Indexes of the jobs that are neither written nor wrong.
        self.waiting: list[int] = []

    def run(self, group: Sequence[int]) -> list[list[int]]:
        """Write a group.

        Returns:
            The halves of the group, if Google refuses a job but does not say which.

        Raises:
            NotNow, SinkError: for the jobs in ``waiting``.
        """
        self.waiting = list(group)
        for _ in range(_MAX_ROUNDS + len(group)):
            halves = self._round()
            if halves or not self.waiting:
                return halves
        raise NotNow(
            "other workers are changing the same tab", after=_WAIT, reason=DeferReason.BUSY
        )

    def _round(self) -> list[list[int]]:
        """Claim the jobs and make a call. Writes nothing, and returns, if it has to be repeated."""
        token, claimed_at = new_token(), _seconds()
        claim = self._claim(token)
        if not self.waiting:
            return []
        try:
            if self._drop_superseded(claim):
                self._settle(SheetFacts(refused=[token]))
                return []
            layout = self._layout()
            typed = self._typed(layout)
            if typed is None:  # the token must not claim jobs that turned out to be wrong
                self._settle(SheetFacts(refused=[token]))
                return []
            self._read_back(claim, layout, typed)
            if not self.waiting:
                self._settle(SheetFacts(refused=[token]))
                return []
            requests, owners, binding = self._plan(token, claim, layout, typed)
        except FormrelayError as error:
            self._settle(SheetFacts(refused=[token]))  # nothing was sent
            if isinstance(error, SheetRefused) and self._reread():
                return []
            raise
        if _seconds() - claimed_at > _MAX_CLAIM_AGE:
            self._settle(SheetFacts(refused=[token]))
            return []
        try:
            answer = self._client.batch_update(self._spreadsheet, requests, layout.range, FIELDS)
        except BadBatch as error:
            return self._refused(error, token, claim, layout, owners)
        except FormrelayError as error:
            if _is_without_effect(error):
                self._settle(SheetFacts(refused=[token]))
            raise
        self._settle(SheetFacts(applied=[token], void=claim.open, evicted=self._evicted(claim)))
        self._check_moved(layout, binding, answer)
        self.waiting = []
        return []

    def _claim(self, token: str) -> ClaimResult:
        """Claim the waiting jobs; those that are done wait no longer."""
        # Of updates of the same range in one call, the newest comes last.
        self.waiting.sort(key=lambda index: (self._jobs[index].order, index))
        jobs = [self._jobs[index] for index in self.waiting]
        places = {job.place: job.order for job in jobs if job.place}
        try:
            claim = self._claims.claim(self._spreadsheet, token, [job.key for job in jobs], places)
        except BrokerError as error:
            raise store_failed(error) from None
        self.waiting = [index for index in self.waiting if self._jobs[index].key not in claim.done]
        return claim

    def _drop_superseded(self, claim: ClaimResult) -> bool:
        """Leave out updates of ranges to which a newer job has been written."""
        old = [
            index
            for index in self.waiting
            if claim.newest.get(self._jobs[index].place, 0) > self._jobs[index].order
        ]
        if old:
            logger.info("updates of a newer job are in place", extra={"jobs": len(old)})
            self._settle(SheetFacts(done=[self._jobs[index].key for index in old]))
            self.waiting = [index for index in self.waiting if index not in old]
        return bool(old)

    def _settle(self, facts: SheetFacts) -> None:
        """Record facts; if the store fails, the next claim finds them out."""
        try:
            self._claims.settle(self._spreadsheet, facts)
        except BrokerError as error:
            about = {"error_message": str(error)}
            logger.warning("the outcome of a call to Google Sheets was not stored", extra=about)

    def _layout(self, *, fresh: bool = False) -> Layout:
        first = self._jobs[self.waiting[0]]
        where = (self._spreadsheet, first.range.tab, first.header_row)
        return self._layouts.get(self._client, *where, fresh=fresh)

    def _reread(self) -> bool:
        """Read the layout again before jobs fail because of it; False if that was done before."""
        if self._is_fresh:
            return False
        self._is_fresh = True
        self._layout(fresh=True)
        return True

    def _typed(self, layout: Layout) -> dict[int, Typed] | None:
        """Convert the waiting jobs to cells.

        Returns:
            The jobs by index; None to begin again, without the jobs that are wrong.
        """
        zone = time_zone(layout.zone)
        typed: dict[int, Typed] = {}
        for index in self.waiting:
            job = self._jobs[index]
            try:
                if job.is_update and (job.range.start_row or 0) + job.number > layout.rows:
                    if self._reread():
                        return None
                    raise SheetRefused("range")
                typed[index] = make_typed(job, zone)
            except (InvalidJob, SheetRefused) as error:
                self._failures[index] = error
        if len(typed) == len(self.waiting):
            return typed
        self.waiting = list(typed)
        return None

    def _read_back(self, claim: ClaimResult, layout: Layout, typed: dict[int, Typed]) -> None:
        """Look for rows of jobs that the store has forgotten, by their row keys."""
        doubtful = {
            index: each
            for index, each in typed.items()
            if each.rows.is_doubtful and each.rows.key in claim.unknown and not each.rows.is_update
        }
        if not doubtful:
            return
        found, unchecked = find_written(self._client, self._spreadsheet, layout, doubtful)
        if unchecked:
            about = {"rows": sum(self._jobs[index].number for index in unchecked)}
            logger.warning("rows may be written twice: no record and no row key", extra=about)
        if found:
            self._settle(SheetFacts(done=[self._jobs[index].key for index in found]))
            self.waiting = [index for index in self.waiting if index not in found]
        for index in found:
            del typed[index]

    def _plan(
        self, token: str, claim: ClaimResult, layout: Layout, typed: Mapping[int, Typed]
    ) -> tuple[list[dict[str, Any]], dict[int, int], Binding]:
        """The requests of a call; the job of each request, by its index; the columns."""
        requests = [create_call(other, VOID) for other in claim.open]
        requests.append(create_call(token, token))
        requests += [delete_call(other) for other in self._evicted(claim)]
        requests += mark_tab(layout, self._jobs[self.waiting[0]].range.tab)
        binding = self._bind(layout, typed)
        requests += binding.requests
        width = max((each.width for each in typed.values()), default=0)
        if not binding.added:
            requests += make_room(layout, width)
        owners: dict[int, int] = {}
        for index, each in typed.items():
            for request in each.requests(layout, binding.columns):
                owners[len(requests)] = index
                requests.append(request)
        return requests, owners, binding

    def _bind(self, layout: Layout, typed: Mapping[int, Typed]) -> Binding:
        fields = [name for each in typed.values() for name in each.by_field]
        first = self._jobs[self.waiting[0]].first_column
        binding = bind(layout, fields, first, is_empty=False)
        if binding.added and not layout.headers and not layout.fields and self._is_empty(layout):
            return bind(layout, fields, first, is_empty=True)
        return binding

    def _is_empty(self, layout: Layout) -> bool:
        """Whether the upper left part of a tab has no values."""
        corner = f"{column_letters(min(26, layout.columns) - 1)}{min(50, layout.rows)}"
        return not self._client.values(self._spreadsheet, f"{quoted(layout.title)}!A1:{corner}")

    def _evicted(self, claim: ClaimResult) -> tuple[str, ...]:
        return claim.evict if self._can_evict else ()

    def _refused(
        self,
        error: BadBatch,
        token: str,
        claim: ClaimResult,
        layout: Layout,
        owners: Mapping[int, int],
    ) -> list[list[int]]:
        """Find out why a call was refused. Returns halves of the group, or nothing: repeat.

        Raises:
            SheetRefused: it concerns all jobs.
        """
        if self._look_up(token, claim):
            return []
        if self._evicted(claim):  # another worker may have deleted the same entries
            self._can_evict = False
            return []
        if self._layout(fresh=True) != layout:
            return []
        # Protection and size concern all jobs that append, but only one update.
        if error.kind in _OF_ALL or (error.kind != "request" and not self._is_update()):
            raise error
        is_about_entry = error.index is not None and error.index not in owners
        if is_about_entry and (not claim.open or len(self.waiting) == 1):
            raise BadBatch("metadata")
        # Half of the jobs has fewer fences, which may fit into the space for entries.
        if is_about_entry or (error.index is None and len(self.waiting) > 1):
            middle = len(self.waiting) // 2
            return [self.waiting[:middle], self.waiting[middle:]]
        wrong = self.waiting[0] if error.index is None else owners[error.index]
        self._failures[wrong] = error
        self.waiting.remove(wrong)
        return []

    def _is_update(self) -> bool:
        return self._jobs[self.waiting[0]].is_update

    def _look_up(self, token: str, claim: ClaimResult) -> bool:
        """Ask for the entries of a refused call, and settle; False if there are none."""
        tokens = {token_id(each): each for each in (token, *claim.open)}
        applied, void, others = [], [], []
        for entry in self._client.metadata(self._spreadsheet, tokens):
            other = tokens[entry["metadataId"]]
            value = entry.get("metadataValue")
            if value == other:
                applied.append(other)
            elif other == token and value != VOID:  # this id belongs to another entry
                others.append(other)
            else:
                void.append(other)
        refused = [] if token in applied or token in void else [token]
        self._settle(SheetFacts(applied=applied, void=void, refused=refused))
        return bool(applied or void or others)

    def _check_moved(self, layout: Layout, binding: Binding, answer: Mapping[str, Any]) -> None:
        """Keep the new layout; log if columns were moved between reading and writing."""
        first = self._jobs[self.waiting[0]]
        where = (self._spreadsheet, first.range.tab, first.header_row)
        new = self._layouts.update(*where, layout, answer)
        if new is None:
            return
        moved = sum(
            new.fields.get(short_digest(name), column) != column
            for name, column in binding.columns.items()
        )
        if moved:
            rows = sum(self._jobs[index].number for index in self.waiting)
            logger.error(
                "columns were moved while rows were written: check the last rows of the tab",
                extra={"columns": moved, "rows": rows, "spreadsheet": self._spreadsheet[:6]},
            )


def _is_without_effect(error: FormrelayError) -> bool:
    """Whether a failed call has certainly written nothing."""
    return not isinstance(error, SinkTransient) or isinstance(error, _WITHOUT_EFFECT)


def _seconds() -> float:
    """A clock that also counts while the machine sleeps, where there is such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
