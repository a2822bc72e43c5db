"""Finds the URLs of webhook endpoints, and shortens them for people.

The endpoint registry stores only the host of a URL, because the rest may contain secrets. The URL
itself is in the jobs of the endpoint, so it is known while some of them wait or are dead-lettered.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from ..actors.payload_secrets import ORIGIN, readable_call
from ..actors.webhooks.actor import endpoint_of_url
from ..brokers import DeadFilter, Entry, Inspector, NotAvailable, State
from ..core.errors import InvalidJob

#: Maximum number of jobs that are read in each state.
MAX_JOBS = 1_000
#: Number of dead letters that ``newest_dead`` returns at most.
_NEWEST = 50
#: A path segment of at least this length that has a digit may be a key.
_KEY_LENGTH = 8
_WORD = re.compile(r"[a-z]+(?:[-_.][a-z]+)*|v[0-9]+", re.IGNORECASE)
_LONGEST_WORD = 24
_MARK = "[…]"


def find_urls(
    inspector: Inspector, queue: str, wanted: Collection[str] | None = None
) -> dict[str, str]:
    """Return the URLs of endpoints by endpoint id, from the jobs of a queue.

    Reads up to :data:`MAX_JOBS` jobs in each state that the broker can list.

    Args:
        wanted: endpoint ids; reading stops when all are found. None reads all.
    """
    found: dict[str, str] = {}
    missing = None if wanted is None else set(wanted)
    if missing is not None and not missing:
        return found
    for entry in jobs_of_queue(inspector, queue):
        known = endpoint_of_entry(entry)
        if known is None or known[0] in found:
            continue
        id, url = known
        if missing is None or id in missing:
            found[id] = url
        if missing is not None:
            missing.discard(id)
            if not missing:
                break
    return found


def endpoint_of_entry(entry: Entry) -> tuple[str, str] | None:
    """Return the endpoint id and the URL of a webhook's job; None for another job."""
    payload = readable_call(entry.message.actor_name, entry.message.kwargs).get("payload")
    if not isinstance(payload, Mapping):
        args = entry.message.args
        payload = args[0] if args and isinstance(args[0], Mapping) else {}
    url = payload.get("url")
    if isinstance(url, Mapping):  # encrypted, and this process has no key
        url = url.get(ORIGIN)
        if "endpointId" not in payload:  # the id depends on the whole URL
            return None
    if not isinstance(url, str):
        return None
    id = payload.get("endpointId", payload.get("endpoint_id"))
    if isinstance(id, str):
        return id, url
    with suppress(InvalidJob):
        return endpoint_of_url(url), url
    return None


def jobs_of_queue(inspector: Inspector, queue: str) -> Iterator[Entry]:
    """Yield jobs of a queue, up to :data:`MAX_JOBS` in each state that the broker can list."""
    with suppress(NotAvailable):
        yield from inspector.newest_dead(queue, limit=_NEWEST)
    for state in (State.SCHEDULED, State.WAITING):
        with suppress(NotAvailable):
            yield from inspector.browse(queue, state, limit=MAX_JOBS).entries
    yield from islice(inspector.dead_letters(DeadFilter(queue), limit=MAX_JOBS), MAX_JOBS)


def shown_url(url: str) -> str:
    """Return host and path of a URL, without its query and without path segments like keys."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _MARK
    segments = [part if _is_word(part) else _MARK for part in parts.path.split("/")]
    path = "/".join(segments)
    return f"{host}{f':{port}' if port else ''}{path}{f'?{_MARK}' if parts.query else ''}"


def _is_word(segment: str) -> bool:
    """Whether a path segment is no key: a word, a version, or a short number or name."""
    if len(segment) < _KEY_LENGTH:
        return True
    return len(segment) <= _LONGEST_WORD and _WORD.fullmatch(segment) is not None


def near(id: str, known: Collection[str], *, most: int = 3) -> list[str]:
    """Return the known ids that resemble an id, the nearest first."""
    from difflib import get_close_matches

    return get_close_matches(id, sorted(known), n=most, cutoff=0.5)


def endpoint_json(record: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return a record of the registry with its ``state``: disabled, open or failing."""
    open_until = record["open_until"]
    if record["disabled_at"] is not None:
        state = "disabled"
    elif open_until is not None and open_until > now:
        state = "open"
    else:
        state = "failing"
    return {"state": state, **record}
