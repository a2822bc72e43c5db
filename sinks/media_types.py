"""What may be said of an answer's Content-Type, which is the other side's text."""

from __future__ import annotations

#: Types that answers have. Any other text might repeat a value of the request.
_KNOWN = frozenset(
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


def known_media_type(content_type: str) -> str:
    """The media type in a Content-Type if it is a usual one, otherwise ``another type``."""
    kind = content_type.partition(";")[0].strip().lower()
    if not kind:
        return "no type"
    return kind if kind in _KNOWN else "another type"
