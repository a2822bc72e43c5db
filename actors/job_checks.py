"""Checks the arguments of jobs against the schemas of payload and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..core.errors import InvalidJob
from .model import Job, Metadata, invalid
from .origins import JobOrigin

_METADATA = TypeAdapter(Metadata)
_METADATA_OF_MANY = TypeAdapter(list[Metadata])
_NO_METADATA = Metadata()
_EMPTY: tuple[Any, ...] = ({}, _NO_METADATA.wire())
_PARTS = ("payload", "metadata")
_NAMES = frozenset(_PARTS)


class JobChecks:
    """The checks of the jobs of one actor.

    Args:
        actor_name: for errors.
        schema: type of the payload, any type that pydantic validates.

    Attributes:
        schema: validates a payload.
    """

    def __init__(self, actor_name: str, schema: Any) -> None:
        self._actor_name = actor_name
        self.schema: TypeAdapter[Any] = TypeAdapter(schema)
        self._schema_of_many: TypeAdapter[list[Any]] = TypeAdapter(list[schema])

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the payload and the metadata of a job.

        Raises:
            InvalidJob: they are missing, do not fit their schemas, or are not the only arguments.
        """
        given = dict(zip(_PARTS, args, strict=False))
        unknown = ", ".join(sorted(kwargs.keys() - set(_PARTS)))
        if unknown:
            raise InvalidJob(
                f"{self._actor_name}: expected 'payload' and 'metadata', got {unknown} as well"
            )
        if len(args) > len(_PARTS) or given.keys() & kwargs.keys():
            raise InvalidJob(
                f"{self._actor_name}: expected 'payload' and 'metadata', each once, "
                f"got {len(args)} positional and {len(kwargs)} keyword arguments"
            )
        given |= kwargs
        part = "payload"
        try:
            checked = self.schema.validate_python(given.get("payload"))
            part = "metadata"
            metadata = given.get("metadata")
            return checked, _METADATA.validate_python({} if metadata is None else metadata)
        except ValidationError as error:
            wrong = invalid(self._actor_name, part, error)
        # Outside the except block: the pydantic error contains values and must not be its context.
        raise wrong

    def check_together(
        self, batch: Sequence[dict[str, Any]], origins: Sequence[JobOrigin]
    ) -> dict[int, Job[Any]]:
        """The jobs in formrelay's own format, by index, validated by two calls of pydantic.

        Empty if a job is invalid: the caller then validates the jobs one by one.
        """
        plain: Sequence[int] = range(len(batch))
        if not all(kwargs.keys() <= _NAMES for kwargs in batch):
            plain = [index for index in plain if batch[index].keys() <= _NAMES]
        try:
            payloads = self._schema_of_many.validate_python(
                [batch[index].get("payload") for index in plain]
            )
            metadata = _metadata_of([batch[index].get("metadata") or {} for index in plain])
        except ValidationError:
            return {}
        return {
            index: Job(payload, about, *origins[index])
            for index, payload, about in zip(plain, payloads, metadata, strict=True)
        }


def _metadata_of(given: Sequence[Any]) -> Sequence[Metadata]:
    if all(each in _EMPTY for each in given):  # true for nearly all events
        return [_NO_METADATA] * len(given)
    return _METADATA_OF_MANY.validate_python(given)
