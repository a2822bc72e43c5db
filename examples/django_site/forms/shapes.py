"""Validation of the API's input, with errors by field."""

import json
import re
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

Check = Callable[[Any], Any]


class Wrong(Exception):
    """The input is invalid; ``errors`` has the messages by field."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(", ".join(errors))
        self.errors = errors


def read(request: HttpRequest, checks: dict[str, Check]) -> dict[str, Any]:
    """Validate the fields of a JSON object; unknown fields are dropped.

    Raises:
        Wrong: the body is not a JSON object, or a field is invalid.
    """
    try:
        data = json.loads(request.body, parse_constant=_no_number)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise Wrong({"body": ["expected JSON"]}) from None
    if not isinstance(data, dict):
        raise Wrong({"body": ["expected a JSON object"]})
    found, errors = {}, {}
    for name, check in checks.items():
        try:
            found[name] = check(data.get(name))
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise Wrong(errors)
    return found


def text(most: int) -> Check:
    """Validate a non-empty text."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= most or "\0" in value:
            raise ValueError(f"expected a text of 1 to {most} characters")
        return value

    return check


def one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return str(value)

    return check


#: An escaped NUL in JSON, unless its backslash is itself escaped.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def a_dict(value: Any) -> dict[str, Any]:
    """Validate an object that every database accepts: PostgreSQL has no NUL and no surrogates."""
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # 1e999 is read as infinity
        raise ValueError("expected finite numbers") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected whole characters, got half a surrogate pair") from None
    if _NUL.search(text):
        raise ValueError("expected texts without NUL characters")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def a_time(value: Any) -> Any:
    found = None
    if isinstance(value, str):
        try:
            found = parse_datetime(value)
        except ValueError:
            found = None
    if found is None or found.tzinfo is None:
        raise ValueError("expected ISO 8601 with an offset")
    return found


def a_number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("expected a whole number of at least 0")
    return value
