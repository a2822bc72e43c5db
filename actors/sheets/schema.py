"""The job ``sheets.update``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC
from typing import Annotated, Any, Literal
from uuid import uuid4

import orjson
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 resolves the base's annotations here
    StringConstraints,
    model_validator,
)

from ...core.errors import InvalidJob
from ...sinks.sheets.ranges import parse_range
from ...sinks.sheets.rows import Rows, check_rows, make_typed
from ...state.connections import connection_id
from ...state.digests import digest
from ..model import Answers, Id, Job, JobModel, Json, Name
from ..payload_secrets import SECRET

#: Maximum number of rows of a job.
MAX_ROWS = 10_000
#: Connection of jobs that name none: the service account of the worker.
SERVICE_ACCOUNT = "service-account"


def _check_spreadsheet(value: str) -> str:
    if "/" in value:
        raise ValueError(
            "expected the id of a spreadsheet, which is the part of its URL between /d/ and "
            "/edit, got a URL or path"
        )
    return value


def _check_range(value: str) -> str:
    try:
        parse_range(value)
    except InvalidJob as error:
        raise ValueError(str(error)) from None
    return value


SpreadsheetId = Annotated[
    str,
    AfterValidator(_check_spreadsheet),
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,200}$"),
]
OAuthToken = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[!-~]+$")]
ConnectionId = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[\w.@:/+-]+$")
]


class Auth(JobModel):
    """OAuth tokens of a person, as Google's client libraries write them."""

    access_token: Annotated[OAuthToken, SECRET] | None = Field(
        None, alias="access_token", repr=False
    )
    refresh_token: Annotated[OAuthToken, SECRET] | None = Field(
        None, alias="refresh_token", repr=False
    )
    expiry_date: int | None = Field(
        None,
        alias="expiry_date",
        ge=0,
        lt=2**53,
        description="When the access token ends, unix milliseconds.",
    )

    @model_validator(mode="after")
    def _has_a_token(self) -> Auth:
        if self.access_token is None and self.refresh_token is None:
            raise ValueError("expected refresh_token or access_token, got neither")
        return self


class SheetJob(JobModel):
    """Rows to append to a tab of a spreadsheet, or to write into a range."""

    spreadsheet_id: SpreadsheetId = Field(
        description="The part of the spreadsheet's URL between /d/ and /edit."
    )
    range: Annotated[str, Field(max_length=500), AfterValidator(_check_range)] = Field(
        description="In A1 notation, like Answers or 'My answers'!A1:F. Its tab says where to "
        "append; its first row has the headers."
    )
    values: list[list[Json]] | None = Field(
        None,
        max_length=MAX_ROWS,
        repr=False,
        description="Rows of values, from the first column of the range.",
    )
    answers: Answers | None = Field(
        None,
        repr=False,
        description="One row, by the names of its columns. A missing column is added.",
    )
    mode: Literal["append", "update"] = Field(
        "append", description="`update` overwrites the range; null leaves a cell as it is."
    )
    row_key: Annotated[int, Field(strict=True, ge=0, lt=18_278)] | Name | None = Field(
        None,
        description="Column that identifies a row: a name for answers, an index from 0 for values.",
    )
    auth: Auth | None = Field(None, repr=False, description="OAuth tokens. Prefer connectionId.")
    connection_id: ConnectionId | None = Field(
        None,
        description="Connection of `formrelay sheets connections`. Default without auth: the "
        "worker's service account.",
    )
    id: Id | None = Field(
        None,
        min_length=1,
        description="Jobs with the same id and content are written once. Default: the job's id.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> SheetJob:
        if (self.values is None) == (self.answers is None):
            got = "neither" if self.values is None else "both"
            raise ValueError(f"expected either values or answers, got {got}")
        if self.auth is not None and self.connection_id is not None:
            raise ValueError("expected either auth or connectionId, got both")
        self._check_row_key()
        try:
            check_rows(self.rows(""))
        except InvalidJob as error:
            raise ValueError(str(error)) from None
        return self

    def _check_row_key(self) -> None:
        key = self.row_key
        if key is None:
            return
        if self.answers is not None:
            if not isinstance(key, str) or self.answers.get(key) is None:
                raise ValueError("expected rowKey to be the name of an answer that has a value")
        elif not isinstance(key, int):
            raise ValueError("expected rowKey to be an index from 0 with values, got a name")
        elif any(len(line) <= key or line[key] is None for line in self.values or ()):
            raise ValueError("expected a value at rowKey in each row of values")

    def rows(self, key: str, *, is_doubtful: bool = False, order: int = 0) -> Rows:
        """The rows, for the sink."""
        return Rows(
            key,
            parse_range(self.range),
            answers=self.answers,
            values=self.values or (),
            is_update=self.mode == "update",
            row_key=self.row_key,
            is_doubtful=is_doubtful,
            order=order,
        )

    @property
    def number(self) -> int:
        """The number of rows."""
        return 1 if self.values is None else len(self.values)

    @property
    def connection(self) -> str:
        """The name of the connection; tokens in the job have a name that does not reveal them."""
        if self.auth is None:
            return self.connection_id or SERVICE_ACCOUNT
        if self.auth.refresh_token is None:
            return connection_id("sheets-access", self.auth.access_token or "")
        return connection_id("sheets", self.auth.refresh_token)


def sheet_to_wire(sheet: SheetJob, _original: Any) -> dict[str, Any]:
    """The payload that is sent.

    Raises:
        InvalidJob: a value does not fit into a cell.
    """
    make_typed(sheet.rows(""), UTC)
    data = sheet.wire()
    if sheet.auth is not None:
        data["auth"] = sheet.auth.wire()
    return data


def weight_of(kwargs: Mapping[str, Any]) -> int:
    """The number of rows of a message; of an invalid message 1."""
    payload = kwargs.get("payload")
    values = payload.get("values") if isinstance(payload, dict) else None
    return max(1, len(values)) if isinstance(values, list) else 1


def batch_key_of(kwargs: Mapping[str, Any]) -> str:
    """Messages with the same key share a batch: for the same spreadsheet and account."""
    payload = kwargs.get("payload")
    if not isinstance(payload, dict):
        return ""
    auth = payload.get("auth")
    names = ("spreadsheetId", "spreadsheet_id", "connectionId", "connection_id")
    parts = [str(payload.get(name, "")) for name in names]
    if isinstance(auth, dict):
        parts += [str(auth.get("refresh_token") or auth.get("access_token"))]
    return digest(*parts)


def key_of(job: Job[SheetJob], queue: str) -> str:
    """The key under which a job's rows are written once: the same at every attempt and replay.

    It contains a digest of the payload, because message ids may repeat: publishers count from 1
    again. The digest leaves out the tokens, which a publisher renews.
    """
    if job.metadata.idempotency_key is not None:
        return f"{queue}\n{job.metadata.idempotency_key}"
    payload = job.payload
    name = payload.id or job.message_id or str(uuid4())
    content = payload.wire()
    content.pop("auth", None)
    data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return f"{queue}\n{name}\n{hashlib.blake2b(data, digest_size=12).hexdigest()}"
