"""The pages of the port: a table of paths, and the function that answers each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from .files import WorkerFiles
from .queues import QueueReader

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A GET or HEAD request.

    Attributes:
        path: without the query.
        accept: the header Accept; empty without one.
        is_local: whether a program of this machine asks, under a loopback name.
        files: what the worker processes of this machine say.
        queues: what the broker says about the queues.
    """

    path: str
    accept: str
    files: WorkerFiles
    queues: QueueReader
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request."""

    body: bytes
    status: int = 200
    content_type: str = TEXT
    headers: dict[str, str] = field(default_factory=dict)


Page: TypeAlias = Callable[[Request], Response]


def _metrics(request: Request) -> Response:
    try:
        from .exposition import render
    except ImportError as error:
        says = f"expected the package {error.name}, which is not installed"
        return Response(f"{says}: pip install 'formrelay[metrics]'\n".encode(), 501)
    body, content_type = render(request.files.read(), request.queues.figures(), request.accept)
    return Response(body, content_type=content_type)


#: The pages by path; programs add others before they serve the port. Each is called in a thread of
#: its own. Metrics and probes must not wait for the broker.
PAGES: dict[str, Page] = {"/metrics": _metrics}


def answer(request: Request) -> Response:
    """Answer a request by :data:`PAGES`."""
    page = PAGES.get(request.path)
    if page is None:
        return Response(f"not found; pages: {' '.join(sorted(PAGES))}\n".encode(), 404)
    return page(request)
