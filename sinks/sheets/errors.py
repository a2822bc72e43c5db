"""Maps errors of Google's APIs (``error.code``, ``status``, ``details``) to formrelay's errors.

Errors of one spreadsheet or connection are never ``SinkUnavailable``, ``SinkBusy`` or
``SinkUnready``, which pause the whole queue. Google's texts may quote cells, so known texts are
recognised, and no text is passed on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import orjson
import pycurl

from ...core.errors import (
    BrokerError,
    DeferReason,
    NotNow,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
    describe,
)
from ..http.blocking import BlockingResponse, RequestFailed
from ..http.headers import parse_retry_after

#: The wait after a quota error without Retry-After: quotas are refilled every minute.
QUOTA_WAIT = timedelta(seconds=30)
_STORE_WAIT = timedelta(seconds=5)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_QUOTA_REASONS = {"RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded"}
_INDEX = re.compile(r"Invalid requests\[(\d+)\]\.([A-Za-z]+)")
#: Part of Google's text (lower case) -> kind of refusal. They concern the whole tab.
_TEXTS = {
    "protected cell or object": "protected",
    "above the limit of": "too_many_cells",
    "unable to parse range": "range",
    "exceeds grid limits": "range",
    "no grid with id": "range",
    "not supported for this document": "not_a_spreadsheet",
}
#: Kind of refusal -> what to do.
_ADVICE = {
    "not_found": "the spreadsheet does not exist, or this account cannot see it: check "
    "spreadsheetId, and share the spreadsheet with the account",
    "permission": "the account may not edit the spreadsheet: share it with the account as editor",
    "scope": "the consent does not include Google Sheets: let the person consent again, with the "
    "scope https://www.googleapis.com/auth/spreadsheets",
    "protected": "the cells are protected: let the owner remove the protection or add the account",
    "too_many_cells": "the spreadsheet would have over 10,000,000 cells: delete empty rows and "
    "columns, or start a new spreadsheet",
    "range": "the tab or range does not exist: check range",
    "not_a_spreadsheet": "the file is not a Google spreadsheet: convert it (File, Save as Google "
    "Sheets)",
    "too_large": "the request is too large: send fewer rows in a job",
    "metadata": "Google does not accept developer metadata: other programs may have used up its "
    "space in this spreadsheet (30,000 characters)",
    "request": "Google does not accept the rows",
}


class QuotaExceeded(NotNow):
    """Google's quota is used up; nothing was written.

    Attributes:
        metric: ``sheets.googleapis.com/write_requests``; empty if unknown.
        limit: name of the limit, ``WriteRequestsPerMinutePerUser``; empty if unknown.
        value: number of requests that the limit allows; None if unknown.
        per: the time in which it allows them; None if unknown.
        is_per_user: whether the limit is of one user, not of the project.
    """

    reason = DeferReason.RATE_LIMIT

    def __init__(
        self,
        message: str | None = None,
        *,
        after: timedelta,
        metric: str = "",
        limit: str = "",
        value: int | None = None,
        per: timedelta | None = None,
    ) -> None:
        super().__init__(message, after=after)
        self.metric, self.limit, self.value, self.per = metric, limit, value, per
        self.is_per_user = limit.endswith("PerUser")


class SheetRefused(SinkPermanent):
    """Google will never write these rows.

    Attributes:
        kind: ``not_found``, ``permission``, ``scope``, ``protected``, ``too_many_cells``,
            ``range``, ``not_a_spreadsheet``, ``too_large``, ``metadata`` or ``request``.
    """

    def __init__(
        self, kind: str, *, code: int | None = None, retry_after: timedelta | None = None
    ) -> None:
        advice = _ADVICE[kind]
        super().__init__(
            f"Google Sheets refused the request: {advice}", code=code, retry_after=retry_after
        )
        self.kind = kind


class BadBatch(SheetRefused):
    """Google executed none of the requests of a batch, because one is wrong (400).

    Attributes:
        index: index of the wrong request; None if Google does not say.
    """

    def __init__(self, kind: str, *, index: int | None = None) -> None:
        super().__init__(kind, code=400)
        self.index = index


class TokenRefused(SinkTransient):
    """Google does not accept the access token (401)."""


def parse_answer(response: BlockingResponse) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        QuotaExceeded, TokenRefused, SheetRefused, BadBatch: nothing was written.
        SinkTransient: anything else. Whether anything was written is unknown.
    """
    status = response.status
    found = _parse_json(response)
    if status == 200:
        if found is None:
            raise SinkTransient(
                "expected JSON with 200 from Google Sheets, got something else or a part of it",
                code=status,
            )
        return found
    error = found.get("error") if found else None
    error = error if isinstance(error, dict) else {}
    raise _error(status, error, _info(error), response)


def transport_error(error: RequestFailed) -> SinkError:
    """The error for a request without a response, or with a part of one."""
    if not error.was_sent:
        why = {
            pycurl.E_COULDNT_RESOLVE_HOST: "host name not found",
            pycurl.E_COULDNT_CONNECT: "connection refused or host unreachable",
            pycurl.E_OPERATION_TIMEDOUT: "it took too long",
        }.get(error.code, f"libcurl error {error.code}")
        return SinkUnavailable(f"expected to connect to Google Sheets, could not ({why})")
    if error.code == pycurl.E_OPERATION_TIMEDOUT:
        return SinkTransient("expected Google Sheets to answer in time, it did not")
    return SinkTransient("the connection to Google Sheets broke before its response")


def store_failed(error: BrokerError) -> NotNow:
    """The error for jobs that cannot be written without the shared store."""
    return NotNow(
        f"the shared store failed: {describe(error)}",
        after=_STORE_WAIT,
        reason=DeferReason.STORE_UNAVAILABLE,
    )


def _error(
    status: int, error: Mapping[str, Any], info: Mapping[str, Any], response: BlockingResponse
) -> Exception:
    reason = str(info.get("reason") or _first_reason(error))
    if status == 429 or (status == 403 and reason in _QUOTA_REASONS):
        return _quota(info, response)
    if status == 401:
        return TokenRefused("Google does not accept the access token", code=401)
    if status == 403 and reason == "SERVICE_DISABLED":
        return SinkUnready(
            "the Google Sheets API is disabled in the Google project: enable it in the console",
            code=403,
        )
    if status == 403:
        kind = "scope" if reason == "ACCESS_TOKEN_SCOPE_INSUFFICIENT" else "permission"
        return SheetRefused(kind, code=403)
    if status == 404:
        return SheetRefused("not_found", code=404)
    if status == 413:
        return SheetRefused("too_large", code=413)
    if status == 400:
        text = str(error.get("message") or "")
        match = _INDEX.search(text)
        kinds = [kind for part, kind in _TEXTS.items() if part in text.lower()]
        return BadBatch(kinds[0] if kinds else "request", index=int(match[1]) if match else None)
    return SinkTransient(
        f"Google Sheets answered {status}", code=status, retry_after=_retry_after(response)
    )


def _quota(info: Mapping[str, Any], response: BlockingResponse) -> QuotaExceeded:
    data = info.get("metadata")
    data = data if isinstance(data, dict) else {}
    limit, value = _word(data.get("quota_limit")), _word(data.get("quota_limit_value"))
    match = re.search(r"Per(Second|Minute|Hour|Day)", limit)
    unit = _UNITS[match[1].lower()] if match else _unit(data)
    name = f" ({limit})" if limit else ""
    return QuotaExceeded(
        f"the quota of Google Sheets is used up{name}",
        after=_retry_after(response) or QUOTA_WAIT,
        metric=_word(data.get("quota_metric")),
        limit=limit,
        value=int(value) if value.isdecimal() else None,
        per=timedelta(seconds=unit) if unit else None,
    )


def _unit(data: Mapping[str, Any]) -> int:
    """Seconds of ``quota_unit``, ``1/min/{project}/{user}``; 0 if unknown."""
    unit = _word(data.get("quota_unit"))
    return next((seconds for name, seconds in _UNITS.items() if f"/{name[:3]}" in unit), 0)


def _word(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text if re.fullmatch(r"[\w./{}-]{1,200}", text, re.ASCII) else ""


def _info(error: Mapping[str, Any]) -> dict[str, Any]:
    """The ``google.rpc.ErrorInfo`` of an error; empty if there is none."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith("rpc.ErrorInfo"):
            return detail
    return {}


def _first_reason(error: Mapping[str, Any]) -> object:
    """The reason of an error in Google's older format, ``errors[0].reason``."""
    errors = error.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return first.get("reason") if isinstance(first, dict) else ""


def _retry_after(response: BlockingResponse) -> timedelta | None:
    return parse_retry_after(response.headers.get("retry-after"), now=time.time())


def _parse_json(response: BlockingResponse) -> dict[str, Any] | None:
    if not response.is_whole:
        return None
    try:
        found = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
