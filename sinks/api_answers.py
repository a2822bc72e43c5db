"""What an answer of the API means, or that there was none: the errors of :mod:`.api`."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from ..core.errors import (
    SinkBusy,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from .retry_after import parse_retry_after

_MOST_BYTES = 1024 * 1024
_MOST_BYTES_OF_AN_ERROR = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_PERMANENT = frozenset({400, 404, 409, 410, 413, 422})
#: It asks for time, and has not taken what was sent.
_BUSY = frozenset({425, 429, 503})
#: What was sent is to be sent elsewhere. (303 is not among them: it has been taken.)
_MOVED = frozenset({301, 302, 307, 308})
_MOST_FIELDS = 10
_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}\Z")
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,60}\Z")


def read(response: requests.Response) -> tuple[bytes, bool]:
    """At most :data:`_MOST_BYTES` of the body (less of an error's), and whether that is all."""
    most = _MOST_BYTES if response.status_code in (200, 201) else _MOST_BYTES_OF_AN_ERROR
    body = bytearray()
    while len(body) <= most:
        chunk = response.raw.read(_CHUNK_BYTES, decode_content=False)
        if not chunk:
            return bytes(body), True
        body += chunk
    return bytes(body), False


def refuse(response: requests.Response, body: bytes) -> None:
    """Nothing for 200 and 201.

    Raises:
        SinkError: for any other status.
    """
    status = response.status_code
    if status in (200, 201):
        return
    if status in (401, 403):
        raise SinkUnready(
            f"expected the API to accept API_TOKEN, it answered {status}: check the token",
            code=status,
            retry_after=_retry_after(response),
        )
    if status in _PERMANENT:
        raise SinkPermanent(f"the API answered {status}{_complaints(body)}", code=status)
    if 200 <= status < 400:
        kind = SinkUnready if status in _MOVED else SinkTransient
        hint = _redirect(response) if status >= 300 else ""
        raise kind(f"expected 200 or 201 from the API, got {status}{hint}", code=status)
    kind = SinkBusy if status in _BUSY else SinkTransient
    raise kind(f"the API answered {status}", code=status, retry_after=_retry_after(response))


def parse(response: requests.Response, body: bytes, whole: bool) -> dict[str, Any]:
    """The JSON object of a 200 or 201.

    Raises:
        SinkTransient: there is none, so that nobody knows whether anything was saved.
    """
    code = response.status_code
    if not whole:
        raise SinkTransient(
            f"expected an answer of at most {_MOST_BYTES} bytes with {code} from the API, "
            "got a larger one",
            code=code,
        )
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        got = kind if _MEDIA_TYPE.match(kind) else "another content type"
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {got}: "
            "does API_URL lead to it, or to a page before it?",
            code=code,
        )
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise SinkTransient(
            f"expected JSON with {code} from the API, got {len(body)} bytes that are none "
            "(cut off, or a page of a proxy's?)",
            code=code,
        ) from None
    if not isinstance(answer, dict):
        raise wrong_shape()
    return answer


def wrong_shape() -> SinkTransient:
    """Of JSON that is no answer of the API's."""
    return SinkTransient(
        "expected {id, status, webhooks} from the API, got JSON of another shape: "
        "check API_URL and the API's version"
    )


def of_connection(error: BaseException) -> SinkError:
    """What it means that there was no answer, or not the whole of one."""
    causes = [*_causes(error)]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause)
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return SinkUnavailable("expected to connect to the API in time, could not")
    # (A name that does not resolve is one of these.)
    for cause in causes:
        if isinstance(cause, NewConnectionError):
            return SinkUnavailable(
                f"expected to connect to the API, could not ({type(cause).__name__})"
            )
    late = (requests.exceptions.Timeout, ReadTimeoutError, TimeoutError)
    if any(isinstance(cause, late) for cause in causes):
        return SinkTransient("expected the API to answer in time, it did not")
    if isinstance(error, requests.exceptions.ConnectionError):
        return SinkTransient("the connection to the API broke before its answer")
    return SinkTransient(f"the answer of the API broke off ({type(error).__name__})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was made of: each library wraps them in its own way."""
    rest, seen = [error], set()
    while rest:
        one = rest.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (*one.args, getattr(one, "reason", None), one.__cause__)
        rest += [each for each in inner if isinstance(each, BaseException)]


def _of_certificate(error: ssl.SSLCertVerificationError) -> SinkUnready:
    """A person has to renew it. OpenSSL's words name the fault and at most our API's host."""
    return SinkUnready(
        "expected the API's TLS certificate to be valid, it is not "
        f"({error.verify_message.rstrip('.')}): nothing was sent"
    )


def _redirect(response: requests.Response) -> str:
    """To which scheme and no more: the rest may say anything."""
    scheme = urlsplit(response.headers.get("Location", "")).scheme
    to = f" to {scheme}" if scheme in ("http", "https") else ""
    return f", a redirect{to}, which is never followed: check API_URL"


def _retry_after(response: requests.Response) -> timedelta | None:
    return parse_retry_after(response.headers.get("Retry-After"), now=time.time())


def _complaints(body: bytes) -> str:
    """The names of the fields that a 4xx complains of; their values and texts stay out."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, dict) and isinstance(found.get("errors"), dict):
        found = found["errors"]
    if not isinstance(found, dict):
        return ""
    names = [name for name in found if _FIELD.match(name)][:_MOST_FIELDS]
    return f" (fields: {', '.join(names)})" if names else ""
