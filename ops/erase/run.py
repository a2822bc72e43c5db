"""Erases a person from each place, and reports the numbers for each place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from dramatiq import Message

from ...actors.emails import send_email
from ...actors.emails.events import journal_name
from ...actors.emails.schema import email_key
from ...actors.webhooks.redis_registry import DELIVERED
from ...brokers import NotAvailable, RelayBroker, State
from ...brokers.inspection import EditStep
from ...config import Settings, get_settings
from ...core.errors import BrokerError, ConfigError, InvalidJob, SinkError, describe
from ...middleware.idempotency import once_and_key
from ...state import make_suppressions
from ...state.redis.erasing import JOURNALS, StoreEraser
from .attempt_rows import erase_attempts
from .message_eraser import MessageEraser
from .subject import Subject

#: Names of places, besides the states of jobs and the places of :class:`StoreEraser`.
KEPT, SUPPRESSIONS, DELIVERY_LOG = "kept_webhooks", "suppressions", "delivery_log"
IN_FLIGHT = str(State.IN_FLIGHT)
#: The states that are edited, in an order in which few messages are missed: a job that fails goes
#: from waiting to scheduled or dead.
_EDITED = (State.WAITING, State.SCHEDULED, State.DEAD)
#: Seconds between two looks at the jobs in flight.
_LOOK_AGAIN = 1.0


@dataclass(slots=True)
class Place:
    """The result for one place.

    Attributes:
        looked_at: number of messages or values.
        found: number that was erased, or that a dry run found.
        parts: number of messages of which only parts were erased.
        open: number of journals that are kept, because their e-mails may still be sent to others.
        note: which part was not reached, and why; empty if every part was.
        is_complete: whether nothing about the person is known to be left.
    """

    name: str
    looked_at: int = 0
    found: int = 0
    parts: int = 0
    open: int = 0
    note: str = ""
    is_complete: bool = True

    def add(self, step: EditStep) -> None:
        """Add a step through messages."""
        self.looked_at += step.looked_at
        self.found += len(step.deleted)
        self.parts += len(step.replaced)


@dataclass(slots=True)
class Erasure:
    """One erasure.

    Args:
        dry_run: count only.
        keep_suppression: keep an address on the suppression list.
        wait: seconds to wait for jobs in flight that are about the person.
        progress: called with the number of messages that were looked at, and that were erased.
        should_stop: asked between two steps.
        settings: default: the settings of this process.
    """

    broker: RelayBroker
    subject: Subject
    dry_run: bool = False
    keep_suppression: bool = False
    wait: float = 0.0
    progress: Callable[[int, int], None] = lambda _looked_at, _erased: None
    should_stop: Callable[[], bool] = lambda: False
    places: dict[str, Place] = field(default_factory=dict)
    is_stopped: bool = False
    settings: Settings = field(default_factory=get_settings)
    _editor: MessageEraser = field(init=False)
    _eraser: StoreEraser | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._editor = MessageEraser(self.subject)
        if self.broker.state is not None:
            address = self.subject.value if self.subject.kind == "email" else None
            self._eraser = StoreEraser(
                self.broker.state, self._is_about, address=address, more={KEPT: DELIVERED}
            )

    @property
    def erased(self) -> int:
        """Number of messages and values that were erased, wholly or in part."""
        return sum(each.found + each.parts for each in self.places.values() if _counts(each))

    @property
    def is_complete(self) -> bool:
        """Whether nothing about the person is known to be left where the command reaches."""
        return not self.is_stopped and all(each.is_complete for each in self.places.values())

    def run(self) -> None:
        """Erase. Raises nothing about a single place: its note says what failed."""
        self._edit_queues()
        if self._stops():
            return
        for erase in (self._erase_stored, self._erase_suppression, self._erase_attempts):
            erase()
            if self._stops():
                return

    # -- messages ------------------------------------------------------------------------

    def _edit_queues(self) -> None:
        ends = time.monotonic() + self.wait
        had = self._look_in_flight()
        # Two passes, since workers put jobs back during the first, and a job that an erased job
        # caused may be before it; more passes with ``wait``.
        for number in count():
            before = self.erased
            self._pass()
            if self.dry_run or self._stops():
                return
            has = self._look_in_flight()
            is_settled = not had and not has and (number > 0 or self.erased == before)
            is_over = number > 0 and not (has and time.monotonic() < ends)
            if is_settled or is_over:
                return
            if has and time.monotonic() < ends:
                time.sleep(_LOOK_AGAIN)
            had = has

    def _pass(self) -> None:
        """Look at all queues once."""
        before = {state: self._place(state).looked_at for state in _EDITED}
        for state in _EDITED:
            self._place(state).looked_at = 0
        for queue in self.broker.inspector.queues():
            for state in _EDITED:
                self._edit(queue, state)
                if self._stops():
                    return
        for state, looked_at in before.items():
            self._place(state).looked_at = max(looked_at, self._place(state).looked_at)

    def _look_in_flight(self) -> int:
        """Count the jobs in flight about the person."""
        place = self.places[IN_FLIGHT] = Place(IN_FLIGHT)
        try:
            for queue in self.broker.inspector.queues():
                self._look_in_flight_of(queue, place)
        except NotAvailable:
            place.note = "RabbitMQ cannot list them: run the command again later"
        if place.found:
            place.note = "a worker has them: run the command again, or use --wait"
        place.is_complete = place.is_complete and not place.found
        return place.found

    def _edit(self, queue: str, state: State) -> None:
        place = self._place(state)
        inspector, unread = self.broker.inspector, self._editor.unread
        try:
            for step in inspector.edit_all(queue, state, self._editor.edit, dry_run=self.dry_run):
                place.add(step)
                if not step.is_complete:
                    place.note = "only the oldest were looked at"
                if not self.dry_run:
                    self._forget_jobs(step)
                self._note_encrypted(unread, place)
                self.progress(self._looked_at, self.erased)
                if self._stops():
                    return
        except NotAvailable:
            self._note_unreadable(queue, state, place)

    def _note_encrypted(self, unread: int, place: Place) -> None:
        """Note that jobs seen since ``unread`` may be about the person, in encrypted secrets."""
        if self._editor.unread > unread:
            place.note = "some have secrets that cannot be decrypted here: set PAYLOAD_KEYS"
            place.is_complete = False

    def _note_unreadable(self, queue: str, state: State, place: Place) -> None:
        """Note how many messages RabbitMQ has that cannot be looked at."""
        if state is State.SCHEDULED:
            scheduled = self.broker.inspector.scheduled_in_all() or 0
            place.note = f"RabbitMQ cannot list them: {scheduled:,} of all queues together"
            place.is_complete = not scheduled
            return
        if waiting := self.broker.counts(queue).waiting:
            reason = "a dry run cannot" if self.dry_run else "a queue with priorities"
            place.note = f"not looked at ({reason}): {waiting:,} of {queue}"
            place.is_complete = self.dry_run

    def _look_in_flight_of(self, queue: str, place: Place) -> None:
        unread = self._editor.unread
        for entry in self.broker.inspector.browse_all(queue, State.IN_FLIGHT):
            place.looked_at += 1
            place.found += self._editor.edit(entry) is not None
        self._note_encrypted(unread, place)

    def _forget_jobs(self, step: EditStep) -> None:
        """Delete what the shared store has about erased jobs."""
        jobs = [
            job
            for entries, is_deleted in ((step.deleted, True), (step.replaced, False))
            for entry in entries
            for job in self._editor.erased_jobs(entry, is_deleted=is_deleted)
        ]
        if not jobs or self._eraser is None:
            return
        queue = self.settings.emails.queue
        keys = [key for job in jobs if (key := self._idempotency_key(job)) is not None]
        journals = [key for job in jobs for key in self._journals(job)]
        ids = [job.message_id for job in jobs]
        names = [journal_name(id, queue) for id in ids] if journals else []
        with suppress(BrokerError):  # these are digests and expire
            self._eraser.forget_jobs(ids, journals, names, keys)

    def _journals(self, message: Message[Any]) -> list[str]:
        """The names of the journals of e-mails."""
        if message.actor_name != send_email.actor_name:
            return []
        with suppress(InvalidJob):  # without a journal
            queue = self.settings.emails.queue
            return [email_key(job, queue) for job in send_email.jobs_of(message)]
        return []

    def _idempotency_key(self, job: Message[Any]) -> str | None:
        try:
            found = once_and_key(self.broker, job)
        except Exception:  # the key is made by a function of the host
            return None
        return None if found is None or found[0].store is not None else found[1]

    # -- other places ----------------------------------------------------------------------

    def _erase_stored(self) -> None:
        if self._eraser is None:
            return
        for name in self._eraser.places:
            self._place(name)
        with self._noting(KEPT):
            for step in self._eraser.steps(dry_run=self.dry_run):
                place = self._place(step.place)
                place.looked_at += step.looked_at
                place.found += step.erased
                place.open += step.open
                if place.open:
                    place.note = f"{place.open:,} of e-mails that may still be sent to others stay"
                self.progress(self._looked_at, self.erased)
                if self._stops():
                    return

    def _erase_suppression(self) -> None:
        if self._eraser is None or self.subject.kind != "email":
            return
        assert self.broker.state is not None
        place, store = self._place(SUPPRESSIONS), make_suppressions(self.broker.state)
        with self._noting(SUPPRESSIONS):
            place.looked_at = store.count()
            if self.keep_suppression:
                place.note = "kept: --keep-suppression"
            elif self.dry_run:
                place.found = len(store.find([self.subject.value]))
            else:
                place.found = store.remove([self.subject.value])

    def _erase_attempts(self) -> None:
        if self.settings.clickhouse.url is None:
            return
        place = self._place(DELIVERY_LOG)
        with self._noting(DELIVERY_LOG):
            place.found = place.looked_at = erase_attempts(self.subject, dry_run=self.dry_run)

    def compact(self) -> None:
        """Rewrite the append-only file of the embedded broker, which has the old values."""
        if self._eraser is not None and self.settings.broker.kind == "embedded":
            with suppress(BrokerError):  # a rewrite is running already
                self._eraser.compact()

    # -- helpers -------------------------------------------------------------------------

    def _is_about(self, data: bytes) -> bool:
        try:
            return self.subject.is_in(orjson.loads(data))
        except orjson.JSONDecodeError:
            return self.subject.is_in_bytes(data)

    def _noting(self, name: str) -> Any:
        return _Noting(self._place(name))

    def _place(self, name: str) -> Place:
        return self.places.setdefault(str(name), Place(str(name)))

    @property
    def _looked_at(self) -> int:
        return sum(each.looked_at for each in self.places.values())

    def _stops(self) -> bool:
        self.is_stopped = self.is_stopped or self.should_stop()
        return self.is_stopped


@dataclass(slots=True)
class _Noting:
    """Turns the error of a place into its note, so that the other places are erased."""

    place: Place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _traceback: Any) -> bool:
        if not isinstance(error, BrokerError | SinkError | ConfigError):
            return False
        self.place.note, self.place.is_complete = f"failed: {describe(error)}", False
        return True


def _counts(place: Place) -> bool:
    return place.name != IN_FLIGHT


def known_places() -> Iterator[str]:
    """The names of all places, in the order of a report."""
    yield from (*map(str, _EDITED), IN_FLIGHT, KEPT, "results", "idempotency", JOURNALS)
    yield from (SUPPRESSIONS, DELIVERY_LOG)
