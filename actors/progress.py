"""The progress of a job that has several parts, such as the recipients of an e-mail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come, over all its attempts. Contains no values of the payload.

    Attributes:
        what: what the parts are, in the plural: "recipients".
        counts: number of parts in each state, all parts together; first the state of parts that
            are done.
        parts: details of the parts, as JSON.
        notes: details of the job, as JSON.
    """

    what: str
    counts: Mapping[str, int]
    parts: Sequence[Mapping[str, Any]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of parts."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        """One line, such as "3 of 5 recipients accepted, 1 refused, 1 deferred"."""
        (done, number), *others = self.counts.items()
        texts = [f"{number} of {self.total} {self.what} {done}"]
        texts += [f"{number} {state}" for state, number in others if number]
        return ", ".join(texts)

    def to_json(self) -> dict[str, Any]:
        """The text and all details."""
        counts = {"total": self.total, "counts": dict(self.counts)}
        return {
            "text": str(self),
            "what": self.what,
            **counts,
            "parts": [*self.parts],
            **self.notes,
        }


def joined(found: Sequence[Progress | None]) -> Progress | None:
    """The progress of the jobs of a batch, without their details; None if there is none."""
    known = [each for each in found if each is not None]
    if len(known) <= 1:
        return known[0] if known else None
    counts: Counter[str] = Counter()
    for each in known:
        counts.update(each.counts)  # keeps the order of the states, and those without parts
    return Progress(known[0].what, dict(counts))
