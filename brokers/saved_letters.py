"""The lines of ``formrelay dlq export``, which ``formrelay dlq import`` reads on any broker.

A line has the bytes of the message as the broker stores them. Bytes that cannot be decoded are
saved as they were received, because each broker wraps them in its own way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from dramatiq import Message

from ..core.errors import BrokerError
from ..core.failure import Failure
from ..core.printable import check_id, read_id, shown_id
from .attempt_history import failure_in
from .entries import Entry
from .envelope import Undecodable, decode, encode, undecodable_bytes, wrap_undecodable
from .settlement import as_dead_letter


class BadLetter(BrokerError, ValueError):
    """A line of a file is not an exported dead letter."""


@dataclass(frozen=True, slots=True)
class SavedLetter:
    """A dead letter, independent of the broker that stored it.

    Attributes:
        id: id on the broker; bytes that are not UTF-8 are lone surrogates.
        body: the stored bytes of the message.
        died: when it was dead-lettered, Unix seconds; None if unknown.
        is_undecodable: whether ``body`` are bytes that could not be decoded.
    """

    queue: str
    id: str
    body: bytes
    failure: Failure | None = None
    died: float | None = None
    is_undecodable: bool = False

    @classmethod
    def of(cls, letter: Entry) -> SavedLetter:
        """Copy a dead letter of a broker."""
        data = undecodable_bytes(letter.message)
        is_undecodable = data is not None
        body = letter.raw if data is None else data
        return cls(letter.queue, letter.id, body, letter.failure, letter.died, is_undecodable)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON; a body that is not UTF-8 becomes base64."""
        try:
            body = {"body": self.body.decode()}
        except UnicodeDecodeError:
            body = {"body_base64": base64.b64encode(self.body).decode()}
        return {
            "queue": self.queue,
            "id": shown_id(self.id),
            "died": self.died,
            "failure": None if self.failure is None else self.failure.to_json(),
            "undecodable": self.is_undecodable,
            **body,
        }

    @classmethod
    def from_line(cls, line: str | bytes) -> SavedLetter:
        """Read a line of an export.

        Raises:
            BadLetter: the line is not an exported dead letter; the error quotes no value.
        """
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise BadLetter("expected JSON, got something else") from None
        if not isinstance(fields, dict):
            raise BadLetter("expected a JSON object, got another value")
        for name, kind in (("queue", str), ("id", str), ("undecodable", bool)):
            if not isinstance(fields.get(name), kind):
                raise BadLetter(f"expected {name!r} to be {kind.__name__}, got another value")
        died = fields.get("died")
        if isinstance(died, bool) or not isinstance(died, int | float | None):
            raise BadLetter("expected 'died' to be a number or null, got another value")
        try:
            id = check_id(read_id(fields["id"]))
        except ValueError:
            raise BadLetter("expected 'id' as formrelay writes it, got another text") from None
        return cls(
            fields["queue"],
            id,
            _body_of(fields),
            _failure_of(fields),
            died,
            fields["undecodable"],
        )

    def body_with_failure(self, job_types: Mapping[str, str]) -> bytes:
        """Return the body with the failure in it, for a broker that stores failures in bodies.

        Args:
            job_types: actor name by job type, to decode plain jobs.
        """
        if self.is_undecodable:
            if self.failure is None:
                return self.body
            wrapped = wrap_undecodable(
                self.body, queue_name=self.queue, message_id=self.text_id, failure=self.failure
            )
            return encode(wrapped)
        message = self._message_without_failure(job_types)
        if message is None or self.failure is None:
            return self.body
        return encode(as_dead_letter(message, self.failure))

    def failure_beside_body(self, job_types: Mapping[str, str]) -> Failure | None:
        """Return the failure if it is not in the body, for a broker that stores it in a header."""
        if self.is_undecodable or self._message_without_failure(job_types) is not None:
            return self.failure
        return None

    def _message_without_failure(self, job_types: Mapping[str, str]) -> Message[Any] | None:
        """Return the decoded message if the failure is not in it, otherwise None."""
        try:
            message = decode(
                self.body, queue_name=self.queue, job_types=job_types, message_id=self.text_id
            )
        except Undecodable:
            return None
        return None if failure_in(message) == self.failure else message

    @property
    def text_id(self) -> str:
        """The id, with bytes that are not UTF-8 escaped."""
        return self.id.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _body_of(fields: Mapping[str, Any]) -> bytes:
    text, encoded = fields.get("body"), fields.get("body_base64")
    if isinstance(text, str) and encoded is None:
        return text.encode()
    if isinstance(encoded, str) and text is None:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error:
            pass
    raise BadLetter("expected either 'body' or 'body_base64' as text, got another value")


def _failure_of(fields: Mapping[str, Any]) -> Failure | None:
    failure = fields.get("failure")
    try:
        return None if failure is None else Failure.from_json(failure)
    except ValueError:
        raise BadLetter("expected 'failure' to be a failure or null, got another value") from None
