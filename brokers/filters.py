"""Selects dead letters."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from ..core.error_groups import group_id, is_error
from ..core.failure import Reason
from .entries import Entry
from .fields import form_ids


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Selects the dead letters that match every given field.

    Attributes:
        error: type or a part of the text of the error (:func:`..core.error_groups.is_error`).
        since, until: dead-lettered at or after ``since`` and before ``until``, Unix seconds.
        form_id: form id in the payload, in the body of a webhook, or in the metadata.
        group: id of the group of the error (:func:`..core.error_groups.group_id`).
    """

    queue: str | None = None
    actor: str | None = None
    error: str | None = None
    reason: Reason | None = None
    since: float | None = None
    until: float | None = None
    form_id: str | None = None
    group: str | None = None

    def matches(self, letter: Entry) -> bool:
        """Whether a dead letter matches."""
        failure = letter.failure
        died = letter.died
        return (
            (self.queue is None or letter.queue == self.queue)
            and (self.actor is None or letter.message.actor_name == self.actor)
            and (self.reason is None or (failure is not None and failure.reason is self.reason))
            and (self.error is None or is_error(failure, self.error))
            and (self.since is None or (died is not None and died >= self.since))
            and (self.until is None or (died is not None and died < self.until))
            and (self.group is None or group_id(failure) == self.group)
            and (self.form_id is None or self.form_id in form_ids(letter.message))
        )


class Place(NamedTuple):
    """The place of a dead letter in the order of all queues. A newer letter has a greater place.

    Attributes:
        at: time of death, in the broker's unit.
        id: bytes of the id, by which a broker sorts dead letters of the same time.
    """

    at: float
    queue: str
    id: bytes

    @property
    def cursor(self) -> str:
        """The place as text for a URL."""
        return f"{self.at!r},{quote(self.queue, safe='')},{quote(self.id, safe='')}"

    @classmethod
    def read(cls, cursor: str) -> Place:
        """Read what :attr:`cursor` returned.

        Raises:
            ValueError: it is another text.
        """
        at, queue, id = cursor.split(",")
        if not math.isfinite(float(at)):
            raise ValueError(f"expected a finite time of death, got {at!r}")
        return cls(float(at), unquote_to_bytes(queue).decode(), unquote_to_bytes(id))


@dataclass(slots=True)
class Extent:
    """How far a search among dead letters goes, and how far it went.

    Attributes:
        at_most: maximum number of dead letters to look at; None: no limit.
        looked_at: number of dead letters that were looked at; added up by each search.
        is_complete: whether every dead letter was looked at. If not, results are "at least".
        whole_queues: whether to look at all dead letters of a long queue of RabbitMQ too: each of
            them is moved to the end of the queue once. To stop the search leaves another order.
        last: place of the dead letter that ``Inspector.recent_dead`` looked at last.
    """

    at_most: int | None = None
    looked_at: int = 0
    is_complete: bool = True
    last: Place | None = None
    whole_queues: bool = False

    @property
    def left(self) -> float:
        """Number of dead letters that may still be looked at."""
        return math.inf if self.at_most is None else max(0, self.at_most - self.looked_at)


#: Dead letters selected by a filter, or by ids.
Which: TypeAlias = DeadFilter | Collection[str]
