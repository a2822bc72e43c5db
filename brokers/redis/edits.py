"""Deletes and replaces messages in Redis, if they are unchanged and not in flight."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ..entries import Entry, State
from ..message_edits import Edit
from .commands import QueueCommands
from .pages import to_bytes

#: Maximum number of messages, and of bytes of new bodies, in one call.
_MOST, _MOST_BYTES = 500, 1024 * 1024
#: Maximum number of ids in lists that Redis looks at in one call, some milliseconds of work: it
#: looks for a waiting message from the beginning of its list.
_MOST_LISTED = 5_000_000

_Edits = Sequence[tuple[Entry, Edit]]


def make_edits(commands: QueueCommands, queue: str, edits: _Edits) -> _Edits:
    """Make edits of messages that are unchanged and not in flight; return these."""
    if not edits:
        return []
    with commands.client_errors() as client:
        listed = client.llen(commands.keys.waiting(queue))
    most = max(1, min(_MOST, _MOST_LISTED // max(1, listed)))
    made: list[tuple[Entry, Edit]] = []
    for some in _calls(edits, most):
        args = [part for entry, edit in some for part in _args(entry, edit)]
        flags = commands.run("edit", queue, args)
        made += [each for each, flag in zip(some, flags, strict=True) if flag]
    return made


def cancel_message(commands: QueueCommands, queue: str, id: str) -> bool:
    """Delete a scheduled or waiting message, whatever its body is."""
    raw = to_bytes(id)
    found = commands.run("edit", queue, ["scheduled", raw, "", "", "waiting", raw, "", ""])
    return any(found)


def _calls(edits: _Edits, most: int) -> Iterator[_Edits]:
    call: list[tuple[Entry, Edit]] = []
    size = 0
    for entry, edit in edits:
        length = len(edit) if isinstance(edit, bytes) else 0
        if call and (len(call) == most or size + length > _MOST_BYTES):
            yield call
            call, size = [], 0
        call.append((entry, edit))
        size += length
    yield call


def _args(entry: Entry, edit: Edit) -> tuple[str | bytes, ...]:
    body = edit if isinstance(edit, bytes) else b""
    if entry.state is State.WAITING and not entry.id:  # a plain job that no worker has taken yet
        return "inbox", entry.raw, "", body
    # Redis has no stronger digest; a body that changed on purpose is still a message of the queue.
    digest = hashlib.sha1(entry.raw, usedforsecurity=False).hexdigest()
    return str(entry.state), to_bytes(entry.id), digest, body
