"""The shape of a job: what every schema shares."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Generic, TypeVar

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

#: The end of a time that has an offset, for the JSON Schema: its `date-time` alone is a note
#: that many a validator does not check.
OFFSET = "([zZ]|[+-][0-9]{2}:[0-9]{2})$"


def nothing_but(characters: str) -> dict[str, str]:
    """For the JSON Schema: a text of these characters (the inside of a regular expression's []).

    Not ``^[…]*$``, which lets a last line break through where the validator is in Python.
    """
    return {"pattern": rf"^(?![\s\S]*[^{characters}])"}


_NAME = re.compile(r"[\w-]{1,64}\Z")
_API_ID = re.compile(r"[!-~]+\Z")


def _is_json(value: Any) -> Any:
    """Whether a value of any depth can be written as JSON; told by writing it.

    pydantic's JsonValue asks a Python function at every value of it.
    """
    try:
        orjson.dumps(value, option=AS_IT_IS)
    except TypeError as error:
        raise ValueError(f"expected JSON, got something else ({error})") from None
    return value


#: JSON alone, and not what orjson could make of a time or a dataclass.
AS_IT_IS = (
    orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _is_api_id(value: str) -> str:
    # "." and ".." would walk up the path of an address.
    if not _API_ID.match(value) or value in (".", ".."):
        raise ValueError("expected printable ASCII without spaces, and not '.' or '..'")
    return value


#: The name of something, and an id that may be any text; ClickHouse and logs take no NUL.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Id = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
#: What the API knows something by: a part of its addresses, and a header that has to carry it.
ApiId = Annotated[
    str,
    Field(min_length=1, max_length=200, json_schema_extra=nothing_but("!-~")),
    AfterValidator(_is_api_id),
]
#: The years that every ClickHouse's DateTime holds. Beyond them, a time with an offset may have
#: none in UTC, and one such event would fail the block of all others.
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
    """Whether a text of some JSON, as orjson writes it, has a NUL character."""
    # The first also finds a backslash that is itself escaped, which is no NUL.
    return b"\\u0000" in data and b"\\u0000" in data.replace(b"\\\\", b"")


def _is_answer(value: Any) -> Any:
    data = orjson.dumps(_is_json(value))
    if has_nul(data):
        raise ValueError("expected text without NUL characters, got one")  # PostgreSQL takes none
    if not _is_finite(value, data):
        raise ValueError("expected numbers that are finite, got one that is not")
    return value


def _is_finite(value: Any, data: bytes) -> bool:
    """Whether no number of it is NaN or infinite, which orjson writes as null without a word."""
    if b"null" not in data:
        return True
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _are_answers(value: Any, one_by_one: ValidatorFunctionWrapHandler) -> Any:
    """All of them at once; one by one only to say which of them is wrong."""
    try:
        if isinstance(value, dict):
            data = orjson.dumps(value, option=AS_IT_IS)
            if not has_nul(data) and _is_finite(value, data):
                return value
    except TypeError:
        pass
    one_by_one(value)
    raise ValueError("expected JSON, got something else")


#: What somebody has filled in, by question: any questions, any JSON. (pydantic by itself writes
#: half a surrogate pair in a key as U+FFFD.)
Answers = Annotated[
    dict[Annotated[str, BeforeValidator(_is_answer)], Annotated[Any, BeforeValidator(_is_answer)]],
    WrapValidator(_are_answers),
]


class JobModel(BaseModel):
    """A schema of the wire: camelCase names, snake_case accepted, unknown keys kept."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        # What did not fit may be somebody's answer; it has no place in an error.
        hide_input_in_errors=True,
        # As it is, and the envelope refuses it: it would be sent as null otherwise.
        ser_json_inf_nan="constants",
    )

    # What travels along unchecked must still be JSON, or it could not travel at all.
    # (No default: pydantic before 2.8 takes none.)
    __pydantic_extra__: dict[str, JsonValue]

    def wire(self) -> dict[str, Any]:
        """As plain JSON with its wire names; optional fields that are null are left out.

        Raises:
            InvalidJob: an unknown key, or one below it, could not be written as it is.
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


class Metadata(JobModel):
    """What a job says of itself; every key is optional, unknown ones travel along."""

    form_id: str | None = None
    submission_id: str | None = None
    retry_count: int | None = Field(None, description="Of the publisher's own count.")
    version: int = Field(1, ge=1, description="Of the payload's schema.")
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Of two jobs of one actor with the same key, one runs. (Not of events, "
        "partials and webhooks, which are known by their own ids.)",
    )
    traceparent: str | None = Field(None, description="W3C Trace Context.")


@dataclass(slots=True)  # not frozen: that makes a batch of ten thousand noticeably slower
class Job(Generic[P]):
    """A job as an actor gets it, checked.

    Attributes:
        message_id: the same on every attempt; empty where the actor was called directly.
        sent_at: when it was sent, unix milliseconds; of another publisher's plain job when it was
            fetched, and then the same at each attempt that is written. 0 as above.
        attempt: the number of this attempt, from 1.
        fields: what the actor adds to the attempt's log line.
    """

    payload: P
    metadata: Metadata
    message_id: str = ""
    sent_at: int = 0
    attempt: int = 1
    fields: dict[str, Any] = field(default_factory=dict)


def name_in_error(step: str | int) -> str:
    """A step of the way to a fault: below a field of free keys it is whatever the sender wrote."""
    return text if _NAME.match(text := str(step)) else "…"


def invalid(actor_name: str, part: str, error: ValidationError) -> InvalidJob:
    """A pydantic error as one line that names fields and never values."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False, include_context=False)[:5]:
        where = ".".join([part, *map(name_in_error, fault["loc"][:4])])
        text = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{where}: {text[0].lower()}{text[1:]}")
    more = error.error_count() - len(faults)
    if more > 0:
        faults.append(f"and {more} more")
    return InvalidJob(f"{actor_name}: {'; '.join(faults)}")
