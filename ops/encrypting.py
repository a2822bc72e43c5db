"""Encrypts the secrets of stored jobs with the first key, and counts jobs by their key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Message

from ..actors.payload_secrets import ENCRYPTED, payload_keys, reencrypted
from ..brokers import Entry, NotAvailable, RelayBroker, State
from ..brokers.envelope import UNDECODABLE, encode
from ..brokers.inspection import Edit
from ..core.encryption import KeyMissing, NotDecryptable, key_id
from ..core.errors import InvalidJob
from ..middleware.delivery import ARGS, BATCH

#: Stand for the key of jobs with secrets in plain text, and with a text that has no key.
PLAIN, DAMAGED = "none", "damaged"
_EDITED = (State.WAITING, State.SCHEDULED, State.DEAD)


@dataclass(slots=True)
class Encryption:
    """One run through the stored jobs.

    Args:
        dry_run: only count.
        should_stop: asked between two steps.

    Attributes:
        jobs: number of jobs with secrets, by place and the id of their key.
        changed: number of messages that were encrypted again, or would be.
        unseen: places that this broker cannot look at, each with the number of its messages.
        missing: ids of keys that this process does not have.
        is_stopped: whether it ended before all jobs were looked at.
    """

    broker: RelayBroker
    dry_run: bool = False
    should_stop: Callable[[], bool] = lambda: False
    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed: int = 0
    unseen: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    is_stopped: bool = False

    def run(self) -> None:
        """Look at the jobs of all queues, and encrypt their secrets with the first key."""
        for queue in self.broker.inspector.queues():
            for state in _EDITED:
                self._edit(queue, state)
                if self.should_stop():
                    self.is_stopped = True
                    return
            self._count_in_flight(queue)

    def old(self) -> int:
        """Number of jobs that another key than the first has encrypted, or none."""
        first = next(iter(payload_keys().ids), None)
        return sum(number for (_, key), number in self.jobs.items() if key != first)

    def _edit(self, queue: str, state: State) -> None:
        inspector = self.broker.inspector
        try:
            steps = inspector.edit_all(
                queue, state, lambda entry: self.edit(entry, str(state)), dry_run=self.dry_run
            )
            for step in steps:
                self.changed += len(step.replaced)
                if not step.is_complete:
                    self.unseen.setdefault(f"dead letters of {queue}", 0)
                if self.should_stop():
                    return
        except NotAvailable:
            counts = self.broker.counts(queue)
            number = counts.waiting if state is State.WAITING else inspector.scheduled_in_all()
            if number:
                place = f"{state} of {queue}" if state is State.WAITING else str(state)
                self.unseen[place] = number

    def _count_in_flight(self, queue: str) -> None:
        try:
            for entry in self.broker.inspector.browse_all(queue, State.IN_FLIGHT):
                self.edit(entry, str(State.IN_FLIGHT))
        except NotAvailable:
            self.unseen.setdefault(str(State.IN_FLIGHT), 0)

    def edit(self, entry: Entry, place: str) -> Edit:
        """Count the jobs of a message; return its new body, or None if it stays."""
        message = entry.message
        if message.actor_name == UNDECODABLE:
            return None
        parts = message.kwargs.get(BATCH)
        if not isinstance(parts, list):
            new = self._encrypted(message, place)
        else:
            found = list(self._parts(message, parts, place))
            is_same = all(one is other for one, other in zip(found, parts, strict=True))
            new = message if is_same else message.copy(kwargs={**message.kwargs, BATCH: found})
        if new is message:
            return None
        try:
            return encode(new)
        except InvalidJob:  # pragma: no cover - it was decoded from JSON
            return None

    def _parts(self, message: Message[Any], parts: list[Any], place: str) -> Iterator[Any]:
        for part in parts:
            kwargs = part.get("kwargs") if isinstance(part, Mapping) else None
            if not isinstance(kwargs, dict):
                yield part
                continue
            whole = message.copy(args=tuple(part.get(ARGS, ())), kwargs=kwargs)
            new = self._encrypted(whole, place)
            if new is whole:
                yield part
            else:
                rest = {name: value for name, value in part.items() if name != ARGS}
                yield {**rest, "kwargs": new.kwargs}

    def _encrypted(self, message: Message[Any], place: str) -> Message[Any]:
        """Count one job, and encrypt its secrets with the first key."""
        text = message.kwargs.get(ENCRYPTED)
        if text is None:
            new = self.broker.encrypted(message)
            self.jobs[place, PLAIN] += new is not message
            return new
        key = DAMAGED
        try:
            key = key_id(str(text))
            kwargs = reencrypted(message.kwargs)
        except KeyMissing:
            self.missing.add(key)
            kwargs = None
        except NotDecryptable:
            key, kwargs = DAMAGED, None
        self.jobs[place, key] += 1
        return message if kwargs is None else message.copy(kwargs=kwargs)
