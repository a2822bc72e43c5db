"""The dashboard: one page for staff that only looks; no script, nothing from elsewhere."""

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
from .look import Look
from .report import NoSuchQueue, Report, overview, queue_page

_REFRESH_SECONDS = 10
#: Seconds, for the whole page.
_WITHIN = 8.0


@never_cache
@require_safe
@staff_only
def dashboard(request: HttpRequest) -> HttpResponse:
    """All queues, workers and the newest dead letters; with ``?queue=`` those of one queue.

    503 when the broker does not answer, with its own words on the page.
    """
    queue, cursor = request.GET.get("queue"), request.GET.get("cursor")
    report, error = None, None
    try:
        if queue is None:
            report = _overview()
        else:
            report = Look(lambda: queue_page(queue, cursor), within=_WITHIN)()
    except NoSuchQueue as wrong:
        raise Http404(str(wrong)) from None
    except FormrelayError as wrong:
        error = str(wrong)
    page = _template().render(Context(_context(request, report, error)))
    answer = HttpResponse(page, status=200 if error is None else 503)
    # The page brings all that it needs; where the project has a stricter policy this one counts.
    answer["Content-Security-Policy"] = (
        f"default-src 'none'; style-src '{_style_hash()}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return answer


def _context(request: HttpRequest, report: Report | None, error: str | None) -> dict[str, Any]:
    is_paused = request.GET.get("refresh") == "off"
    here = {name: request.GET[name] for name in ("queue", "cursor") if name in request.GET}
    still = {"refresh": "off"} if is_paused else {}
    more = {}
    if report is not None and report.cursor is not None:
        more = {"next": _link({"queue": here["queue"], "cursor": report.cursor} | still)}
    return more | {
        "report": report,
        "error": error,
        "style": _style(),
        "refresh": None if is_paused else _REFRESH_SECONDS,
        "switch": _link(here if is_paused else here | {"refresh": "off"}),
        "home": _link(still),
        "first": _link({"queue": here["queue"]} | still) if "cursor" in here else None,
        "still": f"&{urlencode(still)}" if still else "",
    }


def _link(parameters: dict[str, str]) -> str:
    # Relative: whatever path the project has put the page under.
    return f"?{urlencode(parameters, errors='surrogateescape')}" if parameters else "?"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    # An engine of its own: the project's may be another, or look elsewhere.
    return Engine(debug=False).from_string(_file("dashboard.html"))


@cache
def _style() -> str:
    return _file("dashboard.css")


@cache
def _style_hash() -> str:
    digest = hashlib.sha256(_style().encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


_overview = Look(overview, within=_WITHIN)
