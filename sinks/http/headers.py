"""Checks request headers; parses Retry-After and Content-Type of responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime

from ...core.errors import InvalidJob
from ...core.retry import LONGEST_WAIT

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2
# Name and value in one match, separated by NUL, which neither may contain.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\x00[\t\x20-\x7e\x80-\xff]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_HEADERS = 64
_MAX_HEADER_BYTES = 16 * 1024
# int() raises an error for too many digits. Ten digits are 317 years in seconds.
_MAX_DIGITS = 10

_JSON_TYPE = re.compile(r"(application|text)/([a-z0-9!#$&^_.+-]+\+)?json\Z")

#: Hop-by-hop headers (RFC 9110, section 7.6.1), and headers that formrelay or libcurl sets.
RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: Media types that are logged. Any other could be a payload value that the receiver repeats.
_KNOWN_MEDIA_TYPES = frozenset(
    {
        "application/javascript",
        "application/json",
        "application/octet-stream",
        "application/problem+json",
        "application/xhtml+xml",
        "application/xml",
        "image/gif",
        "image/png",
        "text/css",
        "text/html",
        "text/javascript",
        "text/plain",
        "text/xml",
    }
)


def check_headers(custom: Mapping[str, str]) -> dict[str, str]:
    """Check the headers of a caller; returns them by lower-case name.

    Raises:
        InvalidJob: too many headers or bytes, a repeated name, an invalid name or value, a header
            of :data:`RESERVED_HEADERS`, ``webhook-*``, which only formrelay sets, or a Content-Type
            that is not JSON. The message never quotes a value.
    """
    if not custom:
        return {}
    if len(custom) > _MAX_HEADERS:
        raise InvalidJob(f"expected at most {_MAX_HEADERS} headers, got {len(custom)}")
    checked: dict[str, str] = {}
    for name, value in custom.items():
        check_header(name, value)
        lowered = name.lower()
        if lowered in RESERVED_HEADERS or lowered.startswith("webhook-"):
            raise InvalidJob(f"expected no reserved header, got '{lowered}'")
        if lowered == "content-type" and not _is_json(value):
            raise InvalidJob(
                "expected a JSON type in header 'content-type', because the body is JSON, got "
                "another: write application/json or a type that ends in +json, without a charset "
                "or with utf-8"
            )
        if lowered in checked:
            raise InvalidJob(f"expected each header once, got '{lowered}' twice")
        checked[lowered] = value.strip(" \t")
    if sum(len(name) + len(value) for name, value in checked.items()) > _MAX_HEADER_BYTES:
        raise InvalidJob(f"expected headers of at most {_MAX_HEADER_BYTES} bytes in all")
    return checked


def _is_json(content_type: str) -> bool:
    """Whether a Content-Type is right for JSON in UTF-8, the only body that is sent."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' \t"').lower() != "utf-8":
            return False
    return bool(_JSON_TYPE.match(media_type(content_type)))


def check_header(name: str, value: str) -> None:
    """Check that a name and a value can be sent as one header line.

    Raises:
        InvalidJob: the name is not a token, or the value has control characters or characters
            outside of latin-1.
    """
    if _HEADER.match(f"{name}\0{value}"):
        return
    if not _TOKEN.match(name):
        raise InvalidJob("expected header names of letters, digits and !#$%&'*+-.^_`|~")
    if _CONTROL.search(value.replace("\t", " ")):
        raise InvalidJob(f"expected no control characters in header '{name.lower()}'")
    raise InvalidJob(f"expected latin-1 characters in header '{name.lower()}'")


def parse_retry_after(value: str | None, *, now: float) -> timedelta | None:
    """Parse a Retry-After header (RFC 9110, section 10.2.3).

    Args:
        value: whole seconds or an HTTP date; None without the header.
        now: unix time in seconds.

    Returns:
        The wait, at most :data:`LONGEST_WAIT`; None if the value is missing, negative, in the past
        or malformed.
    """
    text = (value or "").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        if len(text) > _MAX_DIGITS:
            return LONGEST_WAIT
        return min(timedelta(seconds=int(text)), LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:  # the zone "-0000" is UTC too
            when = when.replace(tzinfo=UTC)
        seconds = when.timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    if seconds <= 0:
        return None
    return timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds()))


def media_type(content_type: str) -> str:
    """The media type in a Content-Type, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def known_media_type(content_type: str) -> str:
    """The media type in a Content-Type: ``another type`` if unknown, ``no type`` if missing."""
    found = media_type(content_type)
    if found in _KNOWN_MEDIA_TYPES:
        return found
    return "another type" if found else "no type"
