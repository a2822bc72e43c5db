"""What an operator looks for among the dead letters: a filter in the fields of a form or a URL."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from werkzeug.exceptions import BadRequest

from ...brokers import DeadFilter, Entry, Inspector
from ...brokers.filters import Place
from ...brokers.inspection import Extent
from ...core.failure import Reason
from ...core.printable import shown_id
from ..audit import filter_words
from .view import page_id

#: Seconds of the times that pages offer; None: from the beginning.
WINDOWS: dict[str, float | None] = {
    "hour": 3_600.0,
    "day": 86_400.0,
    "week": 604_800.0,
    "all": None,
}
#: Maximum number of dead letters that a page looks at: at first, on demand, and for a count.
LOOK_AT, LOOK_AT_MOST, COUNT_AT_MOST = 2_000, 20_000, 20_000
_TEXTS = ("queue", "actor", "error", "reason", "form", "group")


@dataclass(frozen=True, slots=True)
class DeadQuery:
    """A filter as a form has it.

    Attributes:
        window: name of a time of :data:`WINDOWS`, counted back from now.
        until: Unix seconds, set when an operator is asked, so that later deaths are left out.
        since: Unix seconds; wins over ``window``.
    """

    queue: str = ""
    actor: str = ""
    error: str = ""
    reason: str = ""
    form: str = ""
    group: str = ""
    window: str = "day"
    since: float | None = None
    until: float | None = None

    @classmethod
    def read(cls, given: Mapping[str, str]) -> DeadQuery:
        """Read the fields of a form or the arguments of a URL.

        Raises:
            BadRequest: a field is invalid.
        """
        texts = {name: page_id(given.get(name, "").strip()) for name in _TEXTS}
        window = given.get("window", "day")
        if texts["reason"] and texts["reason"] not in set(Reason):
            raise BadRequest(f"expected one of the reasons {', '.join(Reason)}")
        return cls(
            **texts,
            window=window if window in WINDOWS else "day",
            since=_seconds(given, "since"),
            until=_seconds(given, "until"),
        )

    def filter(self, now: float) -> DeadFilter:
        """The filter for the inspector."""
        back = WINDOWS[self.window]
        since = now - back if self.since is None and back is not None else self.since
        return DeadFilter(
            queue=self.queue or None,
            actor=self.actor or None,
            error=self.error or None,
            reason=Reason(self.reason) if self.reason else None,
            since=since,
            until=self.until,
            form_id=self.form or None,
            group=self.group or None,
        )

    def pinned(self, now: float) -> DeadQuery:
        """The same with fixed times: what an operator is asked about is what is changed."""
        since = self.filter(now).since
        return replace(self, window="all", since=since, until=self.until or now)

    def arguments(self, **changes: str) -> dict[str, str]:
        """The arguments of a URL, or hidden fields; see :meth:`read`."""
        texts = {name: shown_id(getattr(self, name)) for name in _TEXTS}
        times = {
            name: repr(value)
            for name in ("since", "until")
            if (value := getattr(self, name)) is not None
        }
        found = {**texts, "window": self.window, **times, **changes}
        return {name: text for name, text in found.items() if text}

    @property
    def is_narrow(self) -> bool:
        """Whether it selects by more than the time."""
        return any(getattr(self, name) for name in _TEXTS)


@dataclass(frozen=True, slots=True)
class Count:
    """How many dead letters a filter selects.

    Attributes:
        is_exact: whether all dead letters were looked at; otherwise the number is a lower bound.
    """

    number: int
    is_exact: bool

    @property
    def words(self) -> str:
        """The number in words."""
        noun = "dead letter" if self.number == 1 else "dead letters"
        return f"{'' if self.is_exact else 'at least '}{self.number:,} {noun}"


def count_dead(inspector: Inspector, which: DeadFilter) -> Count:
    """Count the dead letters that match, looking at a bounded number of them, as the lists do.

    Args:
        which: its ``until`` is now, at the latest.
    """
    if replace(which, until=None) == DeadFilter(which.queue):
        queues = [which.queue] if which.queue is not None else inspector.queues()
        counts = inspector.counts_of(queues)
        is_exact = all(each.dead_age is None and not each.dead_is_lower_bound for each in counts)
        return Count(sum(each.dead for each in counts), is_exact)
    extent = Extent(at_most=COUNT_AT_MOST)
    number = sum(1 for _ in inspector.recent_dead(which, extent=extent))
    return Count(number, extent.is_complete)


def query_words(query: DeadQuery, now: float) -> str:
    """A filter in words, without the time at which the operator was asked."""
    return filter_words(replace(query.filter(now), until=None))


def _seconds(given: Mapping[str, str], name: str) -> float | None:
    text = given.get(name, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e11:
        raise BadRequest(f"expected {name} in Unix seconds, got another text")
    return seconds


@dataclass(frozen=True, slots=True)
class DeadPage:
    """A page of the dead letters that match a filter.

    Attributes:
        extent: what was looked at for this page.
        cursor: where the next page begins; None on the last page.
    """

    letters: list[Entry]
    extent: Extent
    cursor: str | None


def read_page(
    inspector: Inspector,
    which: DeadFilter,
    cursor: str | None,
    *,
    limit: int,
    matches: Callable[[Entry], bool] = lambda _: True,
    seconds: float = math.inf,
) -> DeadPage:
    """Return a page in the order of :meth:`.Inspector.recent_dead`; looks at :data:`LOOK_AT`.

    Args:
        limit: maximum number of dead letters on the page.
        matches: what else must hold for a dead letter.
        seconds: time after which the search ends with what it has found.

    Raises:
        UnknownCursor: the cursor is malformed.
    """
    extent, end = Extent(at_most=LOOK_AT), time.monotonic() + seconds
    letters: list[Entry] = []
    seen: Place | None = None
    for letter in inspector.recent_dead(which, extent=extent, cursor=cursor):
        if len(letters) == limit or (seen is not None and time.monotonic() > end):
            extent.looked_at -= 1  # this dead letter is on the next page
            break
        seen = extent.last
        if matches(letter):
            letters.append(letter)
    else:
        seen = None if extent.is_complete or not inspector.reads_newest_first else extent.last
    return DeadPage(letters, extent, None if seen is None else seen.cursor)
