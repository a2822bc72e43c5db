"""What the API takes, and the errors by field for what it does not."""

import json
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.utils.dateparse import parse_datetime

Check = Callable[[Any], Any]


class Wrong(Exception):
    """What came is not what is taken; ``errors`` by field."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(", ".join(errors))
        self.errors = errors


def read(request: HttpRequest, checks: dict[str, Check]) -> dict[str, Any]:
    """The fields of a JSON object, checked; unknown ones are left out.

    Raises:
        Wrong: it is no JSON object, or a field does not fit.
    """
    try:
        data = json.loads(request.body)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
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
    """A text that is not empty."""

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


def a_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


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
