"""Refuses a POST that a page of another site makes a browser send (CSRF)."""

from __future__ import annotations

from urllib.parse import urlsplit

from werkzeug import Request


def is_from_this_site(request: Request) -> bool:
    """Whether a request comes from a page of this dashboard.

    Browsers send ``Sec-Fetch-Site`` to servers that they trust (https, loopback), and ``Origin``
    with each POST; scripts of a page can set neither. The scheme is not compared, since a proxy may
    end TLS.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() == request.host.lower()
