"""The application: finds the route, checks access and origin, and adds the security headers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug import Request, Response
from werkzeug.exceptions import Forbidden, HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Map, MapAdapter, RequestRedirect, Rule

from ...brokers import RelayBroker
from ...core.errors import ConfigError, FormrelayError, describe
from .access import Access
from .assets import serve_asset
from .origins import is_from_this_site
from .pages import ROUTES
from .tasks import Tasks
from .view import Site, View

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("formrelay.dashboard")

#: Maximum bytes of a form: a message that is edited and replayed.
_MAX_FORM_BYTES = 4 * 1024 * 1024
#: Maximum bytes of a form without a login: reading a large form takes seconds.
_MAX_PUBLIC_FORM_BYTES = 16 * 1024
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Dashboard:
    """The WSGI application; arguments as of :func:`make_app`."""

    def __init__(
        self,
        open_broker: Callable[[], RelayBroker],
        *,
        access: Access,
        prefix: str,
        tasks: Tasks,
    ) -> None:
        labelled = [route for route in ROUTES if route.label is not None]
        self._site = Site(access, open_broker, labelled, tasks=tasks)
        self._prefix = prefix
        self._routes = {route.name: route for route in ROUTES}
        rules = [Rule("/static/<name>", endpoint="asset", methods=["GET"])]
        rules += [Rule(route.path, endpoint=route.name, methods=[route.method]) for route in ROUTES]
        self._map = Map(rules, strict_slashes=False, merge_slashes=False)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._prefix:
            environ = self._below_prefix(environ)
        if environ.get("SCRIPT_NAME", "").startswith(("//", "/\\")):
            # A prefix of a proxy's client: browsers would read //host as the name of a server.
            environ = {**environ, "SCRIPT_NAME": "/" + environ["SCRIPT_NAME"].lstrip("/\\")}
        request = Request(environ)
        request.max_content_length = request.max_form_memory_size = _MAX_FORM_BYTES
        response = self._answer(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response(environ, start_response)

    def _below_prefix(self, environ: WSGIEnvironment) -> WSGIEnvironment:
        """Take the prefix off the path, if the proxy has left it there."""
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            path = path.removeprefix(self._prefix)
        return {**environ, "SCRIPT_NAME": self._prefix, "PATH_INFO": path}

    def _answer(self, request: Request) -> Response:
        urls = self._map.bind_to_environ(request.environ)
        view = View(self._site, request, urls)
        try:
            return self._route(view, urls)
        except RequestRedirect as error:
            return _as_response(error)
        except HTTPException as error:
            if error.response is not None or error.code is None:
                return _as_response(error)
            response = _error_page(view, error.code, error.name, error.description or "")
            response.headers.extend([each for each in error.get_headers() if each[0] == "Allow"])
            return response
        except ConfigError as error:
            return _error_page(view, 503, "The configuration is wrong", str(error))
        except FormrelayError as error:
            return _error_page(
                view, 503, "The broker or the shared store is unavailable", describe(error)
            )
        except Exception:
            logger.exception("a page of the dashboard failed")
            text = "An unexpected error; the log of the dashboard has its traceback."
            return _error_page(view, 500, "The page failed", text)

    def _route(self, view: View, urls: MapAdapter) -> Response:
        request = view.request
        if not self._site.access.trusts_host(request):
            raise Forbidden(
                "This dashboard has no login, so it answers only browsers on its own machine "
                "under a loopback address. To use it under another name or through a proxy, set "
                "DASHBOARD_TOKEN."
            )
        name, arguments = urls.match()
        if name == "asset":
            return serve_asset(**arguments)
        route = self._routes[name]
        if request.method == "POST" and not is_from_this_site(request):
            raise Forbidden("Refused a form that was not sent by a page of this dashboard.")
        if route.is_public:
            request.max_content_length = request.max_form_memory_size = _MAX_PUBLIC_FORM_BYTES
        view.user = self._site.access.user(request)
        if view.user is None and not route.is_public:
            if request.method != "GET" or not self._site.access.has_login:
                raise Forbidden("Log in and try again.")
            return view.redirect("login", next=_here(request))
        if route.method == "POST" and not route.is_public and not view.may_change:
            raise Forbidden("Expected an operator, got a read-only session.")
        return route.handler(view)


def make_app(
    open_broker: Callable[[], RelayBroker],
    *,
    access: Access,
    prefix: str = "",
    trust_proxy: bool = False,
    tasks: Tasks | None = None,
) -> WSGIApplication:
    """Make the dashboard.

    Args:
        open_broker: returns the broker, asked at each request, after all actors are declared.
        access: decides who requests come from.
        prefix: path below which a proxy serves it, like ``/ops``. Under a WSGI server that sets
            SCRIPT_NAME it must be empty.
        trust_proxy: whether to believe ``X-Forwarded-For``, ``-Proto``, ``-Host`` and
            ``-Prefix``; only behind a proxy that sets them all.
        tasks: runs long tasks; its maker stops it. Default: tasks that end with the process.
    """
    prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
    app: Any = Dashboard(open_broker, access=access, prefix=prefix, tasks=tasks or Tasks())
    made: WSGIApplication = ProxyFix(app, x_prefix=1, x_host=1) if trust_proxy else app
    return made


def _error_page(view: View, status: int, title: str, text: str) -> Response:
    headers = {"Retry-After": "10"} if status == 503 else {}
    response = view.render("error.html", title=title, status=status, text=text)
    response.headers.update(headers)
    return response


def _as_response(error: HTTPException) -> Response:
    found: Any = error.get_response()
    response: Response = found
    return response


def _here(request: Request) -> str:
    """The path and query of a request, below the dashboard's."""
    query = request.query_string.decode("latin-1")
    return f"{request.path}?{query}" if query else request.path
