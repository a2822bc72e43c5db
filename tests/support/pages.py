"""Calls WSGI applications without a server."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlencode, urlsplit

#: The cookie and form field of dramatiq-dashboard against forged requests.
TOKEN = "__dd_csrf"


class DashboardPages:
    """The pages of dramatiq-dashboard, mounted under a prefix."""

    def __init__(self, app: Callable[..., Iterable[bytes]], prefix: str) -> None:
        self.app, self.prefix = app, prefix

    def get(self, path: str, **form: str) -> str:
        """Get a page, following redirects; with a form, POST it with a valid token."""
        fields = {**form, TOKEN: "t"} if form else {}
        status, headers, page = self.call(path, fields)
        if status == "302 Found":
            return self.get(headers["location"].removeprefix(self.prefix))
        assert status == "200 OK", page
        return page

    def call(self, path: str, form: dict[str, str]) -> tuple[str, dict[str, str], str]:
        """Make one request; return its status, headers and body. With a form, POST it."""
        body = urlencode(form).encode()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST" if form else "GET",
            "PATH_INFO": urlsplit(path).path,
            "QUERY_STRING": urlsplit(path).query,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_COOKIE": f"{TOKEN}=t",
            "wsgi.input": io.BytesIO(body),
        }
        answers: list[tuple[str, dict[str, str]]] = []
        pages = self.app(environ, lambda status, headers: answers.append((status, dict(headers))))
        page = b"".join(pages).decode()
        ((status, headers),) = answers
        return status, headers, page
