"""The dashboard: a read-only page for staff, without scripts and external files."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.template import Context, Engine, Template
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..core.errors import FormrelayError
from .access import staff_only
from .pages import DashboardPage, NoSuchQueue, overview, queue_page
from .shared_call import SharedCall

_REFRESH_SECONDS = 10
_TIMEOUT_SECONDS = 8.0


@never_cache
@require_safe
@staff_only
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show queues, workers and the newest dead letters; with ``?queue=``, one queue.

    Answers 503 with the error on the page if the broker cannot be used.
    """
    queue, cursor = request.GET.get("queue"), request.GET.get("cursor")
    content, error = None, None
    try:
        if queue is None:
            content = _overview()
        else:
            content = SharedCall(lambda: queue_page(queue, cursor), timeout=_TIMEOUT_SECONDS)()
    except NoSuchQueue as wrong:
        raise Http404(str(wrong)) from None
    except FormrelayError as wrong:
        error = str(wrong)
    page = _template().render(Context(_context(request, content, error)))
    answer = HttpResponse(page, status=200 if error is None else 503)
    # The page loads nothing, so this policy works in every project.
    answer["Content-Security-Policy"] = (
        f"default-src 'none'; style-src '{_style_hash()}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return answer


def _context(
    request: HttpRequest, content: DashboardPage | None, error: str | None
) -> dict[str, Any]:
    refresh_off = request.GET.get("refresh") == "off"
    here = {name: request.GET[name] for name in ("queue", "cursor") if name in request.GET}
    kept = {"refresh": "off"} if refresh_off else {}
    more = {}
    if content is not None and content.cursor is not None:
        more = {"next": _link({"queue": here["queue"], "cursor": content.cursor} | kept)}
    return more | {
        "page": content,
        "error": error,
        "style": _style(),
        "refresh": None if refresh_off else _REFRESH_SECONDS,
        "switch": _link(here if refresh_off else here | {"refresh": "off"}),
        "home": _link(kept),
        "first": _link({"queue": here["queue"]} | kept) if "cursor" in here else None,
        "kept": f"&{urlencode(kept)}" if kept else "",
    }


def _link(parameters: dict[str, str]) -> str:
    # Relative, because the project chooses the path of the page.
    return f"?{urlencode(parameters, errors='surrogateescape')}" if parameters else "?"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    # A separate engine: the project may use another template engine or other folders.
    return Engine(debug=False).from_string(_file("dashboard.html"))


@cache
def _style() -> str:
    return _file("dashboard.css")


@cache
def _style_hash() -> str:
    digest = hashlib.sha256(_style().encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


_overview = SharedCall(overview, timeout=_TIMEOUT_SECONDS)
