"""Models, types of fields and errors that the schemas of all jobs share."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel

from ..core.errors import InvalidJob

P = TypeVar("P")

#: The pattern of a UTC offset, for the JSON Schema: many validators ignore `date-time`.
OFFSET = "([zZ]|[+-][0-9]{2}:[0-9]{2})$"


def only(characters: str) -> dict[str, str]:
    """JSON Schema of a text that consists of these characters (the inside of a regex ``[]``).

    Not ``^[…]*$``, with which validators in Python accept a final line break.
    """
    return {"pattern": rf"^(?![\s\S]*[^{characters}])"}


_NAME = re.compile(r"[\w-]{1,64}\Z")
_API_ID = re.compile(r"[!-~]+\Z")


def _is_json(value: Any) -> Any:
    """Check that a value can be encoded as JSON, by encoding it.

    (pydantic's JsonValue is slow: it calls a Python function for each nested value.)
    """
    try:
        orjson.dumps(value, option=AS_IT_IS)
    except TypeError as error:
        raise ValueError(f"expected JSON, got something else ({error})") from None
    return value


#: Options of orjson to refuse times and dataclasses, which are not JSON.
AS_IT_IS = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _is_api_id(value: str) -> str:
    # "." and ".." would change the path of a URL.
    if not _API_ID.match(value) or value in (".", ".."):
        raise ValueError("expected printable ASCII without spaces, and not '.' or '..'")
    return value


#: A name, and an id that may be any text. No NUL, which ClickHouse and logs do not accept.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Id = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
#: An id of the API, which is part of a URL and the value of a header.
ApiId = Annotated[
    str,
    Field(min_length=1, max_length=200, json_schema_extra=only("!-~")),
    AfterValidator(_is_api_id),
]
#: A time within the range of ClickHouse's DateTime: an event outside it would fail its whole block.
When = Annotated[
    AwareDatetime,
    Field(
        ge=datetime(1970, 1, 1, tzinfo=UTC),
        lt=datetime(2106, 1, 1, tzinfo=UTC),
        json_schema_extra={"pattern": f"^(197[1-9]|19[89][0-9]|20[0-9]{{2}}|210[0-4])-.*{OFFSET}"},
    ),
]

#: Any JSON.
Json = Annotated[Any, BeforeValidator(_is_json)]


def has_nul(data: bytes) -> bool:
    """Whether JSON written by orjson contains a NUL character."""
    # The first test also matches an escaped backslash before "u0000", which is not a NUL.
    return b"\\u0000" in data and b"\\u0000" in data.replace(b"\\\\", b"")


def _is_answer(value: Any) -> Any:
    data = orjson.dumps(_is_json(value))
    if has_nul(data):
        raise ValueError("expected text without NUL characters, got one")  # PostgreSQL refuses them
    if not _is_finite(value, data):
        raise ValueError("expected numbers that are finite, got one that is not")
    return value


def _is_finite(value: Any, data: bytes) -> bool:
    """Whether a value has no NaN and no infinite number, which orjson silently writes as null."""
    if b"null" not in data:
        return True
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _are_answers(value: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """Check all answers together; one by one only to find the invalid answer."""
    try:
        if isinstance(value, dict):
            data = orjson.dumps(value, option=AS_IT_IS)
            if not has_nul(data) and _is_finite(value, data):
                return value
    except TypeError:
        pass
    one_by_one(value)
    raise ValueError("expected JSON, got something else")


#: The answers by question: any keys, any JSON. (Keys are checked too, because pydantic would
#: write a lone surrogate as U+FFFD.)
Answers = Annotated[
    dict[Annotated[str, BeforeValidator(_is_answer)], Annotated[Any, BeforeValidator(_is_answer)]],
    WrapValidator(_are_answers),
]


class JobModel(BaseModel):
    """The base of all schemas: camelCase in JSON, snake_case accepted, unknown keys kept."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        # Errors must not contain payload values.
        hide_input_in_errors=True,
        # Keep NaN, so that the envelope refuses it; otherwise it would be sent as null.
        ser_json_inf_nan="constants",
    )

    #: Whether unknown keys are another program's, so that none can be a misspelled field.
    has_foreign_keys: ClassVar[bool] = False
    #: Unknown keys whose values are secret, beside the fields with the mark of a secret.
    secret_keys: ClassVar[tuple[str, ...]] = ()

    # Unknown keys must be JSON too. (No default: pydantic before 2.8 accepts none.)
    __pydantic_extra__: dict[str, JsonValue]

    def wire(self) -> dict[str, Any]:
        """Convert to plain JSON with camelCase names, without optional fields that are null.

        Raises:
            InvalidJob: the value of an unknown key is not JSON.
        """
        if self.model_extra:
            try:
                _is_json(self.model_extra)
            except ValueError as error:
                raise InvalidJob(f"{type(self).__name__}: {error}") from None
        data = self.model_dump(mode="json", by_alias=True)
        required = _required(type(self))
        return {
            name: value for name, value in data.items() if value is not None or name in required
        }


@cache
def _required(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        field.alias or name for name, field in model.model_fields.items() if field.is_required()
    )


def _text_or_none(value: Any) -> Any:
    return value if isinstance(value, str) else None


#: A value of Trace Context. A malformed value breaks no job: another type counts as missing.
TraceText = Annotated[str | None, BeforeValidator(_text_or_none)]


class Metadata(JobModel):
    """The metadata of a job. Every key is optional; unknown keys are kept."""

    form_id: str | None = None
    submission_id: str | None = None
    retry_count: int | None = Field(None, description="The publisher's own retry count; not used.")
    version: int = Field(1, ge=1, description="Version of the payload's schema.")
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Jobs of one actor with the same key run once. (Not for events, partials "
        "and webhooks, which have ids of their own.)",
    )
    traceparent: TraceText = Field(None, description="W3C Trace Context.")
    tracestate: TraceText = Field(None, description="W3C Trace Context.")


@dataclass(slots=True)  # not frozen, which would slow down large batches
class Job(Generic[P]):
    """A checked job, the argument of an actor.

    Attributes:
        message_id: the same at every attempt; empty if the actor was called directly.
        sent_at: when the job was sent, unix milliseconds. For a plain job of another publisher,
            when it was first fetched. 0 if the actor was called directly.
        attempt: the number of this attempt, from 1.
        is_redelivered: whether an attempt may have run that is not counted, because its worker
            died.
        fields: fields that the actor adds to the log line of the attempt.
    """

    payload: P
    metadata: Metadata
    message_id: str = ""
    sent_at: int = 0
    attempt: int = 1
    is_redelivered: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


def name_in_error(step: str | int) -> str:
    """A key in the path of an error, or ``…`` for a key that may be a value of the sender."""
    return text if _NAME.match(text := str(step)) else "…"


def invalid(actor_name: str, part: str, error: ValidationError) -> InvalidJob:
    """Convert a pydantic error to one line that names fields but contains no values."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False)[:5]:
        where = ".".join([part, *map(name_in_error, fault["loc"][:4])])
        text = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{where}: {text[0].lower()}{text[1:]}")
    more = error.error_count() - len(faults)
    if more > 0:
        faults.append(f"and {more} more")
    return InvalidJob(f"{actor_name}: {'; '.join(faults)}")
