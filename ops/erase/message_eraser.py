"""Decides whether a message is erased as a whole, in part, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dramatiq import Message

from ...actors.calls import messages_in
from ...actors.events import record_events
from ...actors.payload_secrets import ENCRYPTED, readable_call
from ...actors.webhooks.delivery_log import record_attempts
from ...brokers import Entry
from ...brokers.envelope import encode, undecodable_bytes
from ...brokers.inspection import Deleted, Edit
from ...core.errors import BrokerError, InvalidJob
from ...middleware.delivery import ARGS, BATCH, CAUSED_BY
from .subject import Subject

#: Maximum number of erased jobs whose caused jobs are recognised.
_MAX_IDS = 100_000
_PAYLOAD = "payload"


def _list_in(message: Message[Any]) -> Any:
    """The payloads in a job that has several; a list in another job is one payload."""
    many = {record_events.actor_name, record_attempts.actor_name}
    return message.kwargs.get(_PAYLOAD) if message.actor_name in many else None


class MessageEraser:
    """Edits messages for one erasure.

    A job that an erased job caused is erased too: an e-mail about a submission may not name it.

    Attributes:
        unread: number of jobs and parts of batches whose secrets this process cannot decrypt.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._erased_ids: set[str] = set()
        self.unread = 0

    def edit(self, entry: Entry) -> Edit:
        """Return the edit of a message: None to keep it, DELETED, or its new body."""
        message = entry.message
        data = undecodable_bytes(message)
        if data is not None:
            return Deleted.DELETED if self._subject.is_in_bytes(data) else None
        parts, rest = message.kwargs.get(BATCH), None
        if isinstance(parts, list):
            name = message.actor_name
            kept = [part for part in parts if not self._is_part(part, name)]
            rest = {**message.kwargs, BATCH: kept}
        elif isinstance(parts := _list_in(message), list):
            kept = [part for part in parts if not self._subject.is_in(part)]
            rest = {**message.kwargs, _PAYLOAD: kept}
        else:
            parts = kept = []
        named = {} if rest is None else {BATCH: None, _PAYLOAD: None}
        # An address may be in the encrypted variables of an e-mail.
        readable = self._readable(message.actor_name, message.kwargs)
        others = [message.args, {**readable, **named}, message.options]
        if self._is_caused(message.options) or self._subject.is_in(others) or (parts and not kept):
            self._note(message.message_id)
            return Deleted.DELETED
        if len(kept) == len(parts):
            return None
        try:
            return encode(message.copy(kwargs=rest))
        except InvalidJob:  # pragma: no cover - it was decoded from JSON
            return Deleted.DELETED

    def erased_jobs(self, entry: Entry, *, is_deleted: bool) -> Iterator[Message[Any]]:
        """Yield the jobs that were erased with a message, or from a frozen batch."""
        try:
            jobs = list(messages_in(entry.message))
        except BrokerError:  # a batch without its parts
            return
        yield from (job for job in jobs if is_deleted or job.message_id in self._erased_ids)

    def _is_part(self, part: Any, actor_name: str) -> bool:
        if not isinstance(part, Mapping):
            return False
        options, kwargs = part.get("options"), part.get("kwargs")
        if isinstance(kwargs, Mapping):
            kwargs = self._readable(actor_name, kwargs)
        values = {"args": part.get(ARGS), "kwargs": kwargs}
        is_about = self._subject.is_in(values) or (
            isinstance(options, Mapping) and self._is_caused(options)
        )
        if is_about and isinstance(id := part.get("message_id"), str):
            self._note(id)
        return is_about

    def _readable(self, actor_name: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        found = readable_call(actor_name, kwargs)
        self.unread += ENCRYPTED in found
        return found

    def _is_caused(self, options: Mapping[str, Any]) -> bool:
        cause = options.get(CAUSED_BY)
        return isinstance(cause, str) and cause in self._erased_ids

    def _note(self, id: str) -> None:
        if len(self._erased_ids) < _MAX_IDS:
            self._erased_ids.add(id)
