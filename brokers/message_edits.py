"""Edits of messages: an inspector keeps, replaces or deletes each message that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from .entries import Entry


class Deleted(Enum):
    """The result of an edit that deletes the message."""

    DELETED = "deleted"


#: The edit of a message: None to keep it, DELETED, or its new body.
Edit: TypeAlias = bytes | Literal[Deleted.DELETED] | None
#: Decides the edit of a message.
Editor: TypeAlias = Callable[[Entry], Edit]


@dataclass(frozen=True, slots=True)
class EditStep:
    """A step through the messages of a queue.

    Attributes:
        looked_at: number of messages that were looked at.
        deleted: the messages that were deleted, or would be.
        replaced: the messages that got another body, or would get one.
        is_complete: whether every message in this state could be looked at.
    """

    looked_at: int
    deleted: Sequence[Entry] = ()
    replaced: Sequence[Entry] = ()
    is_complete: bool = True

    @classmethod
    def of(cls, looked_at: int, edits: Sequence[tuple[Entry, Edit]]) -> EditStep:
        """Make a step from edits, all of which were made."""
        deleted = [entry for entry, edit in edits if edit is Deleted.DELETED]
        replaced = [entry for entry, edit in edits if isinstance(edit, bytes)]
        return cls(looked_at, deleted, replaced)
