"""The dashboard of :mod:`formrelay.ops.dashboard`, behind the login of Django's staff."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ..brokers import RelayBroker, get_broker
from ..core.errors import ConfigError
from .access import staff_only
from .conf import operator_permission
from .discovery import declare_all
from .shared_call import SharedCall

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_TIMEOUT_SECONDS = 8.0
#: What the dashboard gets of a request beside its headers.
_COPIED = (
    *("CONTENT_TYPE", "QUERY_STRING", "REMOTE_ADDR"),
    *("SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"),
)


# The dashboard checks the origin of each form itself, and its actions are not part of a transaction
# of the database.
@csrf_exempt
@transaction.non_atomic_requests
@staff_only
def dashboard(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Show a page of the dashboard, or do what a form of it asks for.

    Staff may look. Superusers, and staff with the permission of the setting
    FORMRELAY_DASHBOARD_PERMISSION, may change things and see payloads.

    Args:
        rest: path below the path of the dashboard.
    """
    try:
        return _called(_app(), _environ(request, rest))
    except ImportError as error:
        return _plain(501, f"{error.name} is not installed: pip install 'formrelay[django]'")
    except ConfigError as error:
        return _plain(503, str(error))


def _plain(status: int, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")


@cache
def _app() -> WSGIApplication:
    from ..ops.dashboard import make_app
    from ..ops.dashboard.access import HostAccess

    return make_app(_open, access=HostAccess())


def _open_broker() -> RelayBroker:
    declare_all()
    broker = get_broker()
    broker.ping(())
    return broker


_open = SharedCall(_open_broker, timeout=_TIMEOUT_SECONDS)


def _environ(request: HttpRequest, rest: str) -> dict[str, Any]:
    """The request as a WSGI environment, under any handler of Django."""
    from ..ops.dashboard.access import HostAccess, Role, User

    given, body = request.META, request.body
    may_change = request.user.is_superuser or _has_permission(request)
    return {
        **{name: value for name, value in given.items() if name.startswith("HTTP_")},
        **{name: given[name] for name in _COPIED if name in given},
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": _latin(request.path.removesuffix(rest).rstrip("/")),
        "PATH_INFO": _latin(f"/{rest}"),
        "CONTENT_LENGTH": str(len(body)),
        # As Django sees them, which may trust a proxy.
        "HTTP_HOST": request.get_host(),
        "wsgi.url_scheme": request.scheme,
        "wsgi.version": (1, 0),
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        HostAccess.KEY: User(
            request.user.get_username(), Role.OPERATOR if may_change else Role.READ_ONLY
        ),
    }


def _has_permission(request: HttpRequest) -> bool:
    permission = operator_permission()
    return permission is not None and bool(request.user.has_perm(permission))


def _latin(path: str) -> str:
    """A path as WSGI wants it: its UTF-8 bytes as Latin-1."""
    return path.encode(errors="surrogateescape").decode("latin-1")


def _called(app: WSGIApplication, environ: dict[str, Any]) -> HttpResponse:
    """Call a WSGI application and return its answer as Django's."""
    answer = HttpResponse()

    def start(status: str, headers: Iterable[tuple[str, str]], *_: object) -> Any:
        answer.status_code = int(status.split()[0])
        for name, value in headers:
            if name.lower() == "set-cookie":
                answer.cookies.load(value)
            else:
                answer[name] = value

    answer.content = b"".join(app(environ, start))
    return answer
