"""What an answer of the API means, or that there was none: the errors of :mod:`.api`."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping
from datetime import timedelta
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests

from ..core.errors import (
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from .media_types import known_media_type
from .retry_after import parse_retry_after
from .transport import MOST_BYTES, Answer, NotSent

_PERMANENT = frozenset({400, 404, 409, 410, 413, 422})
#: It asks for time, and has not taken what was sent.
_BUSY = frozenset({425, 429, 503})
#: What was sent is to be sent elsewhere. (303 is not among them: it has been taken.)
_MOVED = frozenset({301, 302, 307, 308})
_MOST_FIELDS = 10
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
#: The parts of ``answers.q1`` and ``answers[q1]``.
_STEPS = re.compile(r"[.\[\]]+")


def refuse(answer: Answer, sent: Mapping[str, Any] | None = None) -> None:
    """Nothing for 200 and 201.

    Args:
        sent: the payload, whose field names an error may repeat.

    Raises:
        SinkError: for any other status.
    """
    status = answer.status_code
    if status in (200, 201):
        return
    if status in (401, 403):
        raise SinkUnready(
            f"expected the API to accept API_TOKEN, it answered {status}: check the token",
            code=status,
            retry_after=_retry_after(answer),
        )
    if status in _PERMANENT:
        fields = _fields(answer.body, sent or {})
        raise SinkPermanent(f"the API answered {status}{fields}", code=status)
    if 200 <= status < 400:
        kind = SinkUnready if status in _MOVED else SinkTransient
        hint = _redirect(answer) if status >= 300 else ""
        raise kind(f"expected 200 or 201 from the API, got {status}{hint}", code=status)
    kind = SinkBusy if status in _BUSY else SinkTransient
    raise kind(f"the API answered {status}", code=status, retry_after=_retry_after(answer))


def parse(answer: Answer) -> dict[str, Any]:
    """The JSON object of a 200 or 201.

    Raises:
        SinkTransient: there is none, so that nobody knows whether anything was saved.
    """
    code = answer.status_code
    if not answer.is_whole:
        raise SinkTransient(
            f"expected an answer of at most {MOST_BYTES} bytes with {code} from the API, "
            "got a larger one",
            code=code,
        )
    kind = answer.kind
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {known_media_type(kind)}: "
            "does API_URL lead to it, or to a page before it?",
            code=code,
        )
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {len(answer.body)} bytes that are none "
            "(cut off, or a page of a proxy's?)",
            code=code,
        ) from None
    if not isinstance(found, dict):
        raise wrong_shape()
    return found


def wrong_shape() -> SinkTransient:
    """Of JSON that is no answer of the API's."""
    return SinkTransient(
        "expected {id, status, webhooks} from the API, got JSON of another shape: "
        "check API_URL and the API's version"
    )


def of_connection(error: requests.RequestException) -> SinkError:
    """What it means that there was no answer, or not the whole of one."""
    match error:
        case requests.exceptions.SSLError():  # a person has to renew it
            return SinkUnready(
                f"expected the API's TLS certificate to be valid, it is not ({error}): "
                "nothing was sent"
            )
        case requests.exceptions.ConnectTimeout():
            return SinkUnavailable("expected to connect to the API in time, could not")
        case NotSent():
            return SinkUnavailable(f"expected to connect to the API, could not ({error})")
        case requests.exceptions.Timeout():
            return SinkTransient("expected the API to answer in time, it did not")
        case requests.exceptions.ConnectionError():
            return SinkTransient("the connection to the API broke before its answer")
    return SinkTransient(f"the answer of the API broke off ({error})")


def _redirect(answer: Answer) -> str:
    """To which scheme and no more: the rest may say anything."""
    scheme = urlsplit(answer.headers.get("Location", "")).scheme
    to = f" to {scheme}" if scheme in ("http", "https") else ""
    return f", a redirect{to}, which is never followed: check API_URL"


def _retry_after(answer: Answer) -> timedelta | None:
    return parse_retry_after(answer.headers.get("Retry-After"), now=time.time())


def _fields(body: bytes, sent: Mapping[str, Any]) -> str:
    """The fields that a 4xx names, if they are names of what was sent: its own fields, and the
    questions under ``answers``.

    Everything else is left out, the names of unknown fields too: whatever the API writes may
    repeat a value.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, dict) and isinstance(found.get("errors"), dict):
        found = found["errors"]
    if not isinstance(found, dict):
        return ""
    answers = sent.get("answers")
    known = {*sent, *(answers if isinstance(answers, Mapping) else ())}
    names = list(dict.fromkeys(name for one in found if (name := _known_name(one, known))))
    return f" (fields: {', '.join(names[:_MOST_FIELDS])})" if names else ""


def _known_name(name: str, known: Container[str]) -> str:
    """``answers.q1`` as far as its parts are known; empty where the first one is not."""
    if name in known:
        return name if _FIELD.match(name) else ""
    steps = list(
        takewhile(lambda step: step in known and _FIELD.match(step), _STEPS.split(name)[:2])
    )
    return ".".join(steps)
