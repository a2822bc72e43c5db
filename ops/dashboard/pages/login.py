"""Login with a token, and logout."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from werkzeug import Response

from ..access import COOKIE, TokenAccess
from ..sessions import MAX_AGE
from ..view import Route, View

logger = logging.getLogger("formrelay.dashboard")


def show(view: View) -> Response:
    """Show the form."""
    return _form(view)


def log_in(view: View) -> Response:
    """Check the token; set the session's cookie and go to the page that was asked for."""
    access = _tokens(view)
    address = view.request.remote_addr or ""
    if (wait := view.site.failed_logins.seconds_to_wait(address)) > 0:
        response = _form(view, 429, f"Too many failed logins: try again in {wait:.0f} s.")
        response.headers["Retry-After"] = f"{wait:.0f}"
        return response
    cookie = access.log_in(view.field("token", "").strip(), view.field("name", ""))
    if cookie is None:
        view.site.failed_logins.add(address)
        logger.warning("a login to the dashboard failed", extra={"address": address})
        return _form(view, 403, "The token is wrong.")
    response = view.redirect("overview")
    response.headers["Location"] = view.url("overview").rstrip("/") + _local(view.field("next", ""))
    view.set_cookie(response, COOKIE, cookie, max_age=MAX_AGE)
    return response


def log_out(view: View) -> Response:
    """Remove the session's cookie."""
    _tokens(view)
    response = view.redirect("login", flash="Logged out.")
    response.delete_cookie(COOKIE, path=view.cookie_path)
    return response


def _form(view: View, status: int = 200, problem: str | None = None) -> Response:
    _tokens(view)
    target = _local(view.request.values.get("next", ""))
    return view.render("login.html", title="Log in", status=status, problem=problem, next=target)


def _tokens(view: View) -> TokenAccess:
    access = view.site.access
    if not isinstance(access, TokenAccess):
        raise view.not_found("This dashboard has no login of its own.")
    return access


def _local(target: str) -> str:
    """A path of this dashboard; ``/`` instead of any other address."""
    parts = urlsplit(target)
    is_path = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if is_path and target.isprintable() and not parts.netloc else "/"


ROUTES = (
    Route("/login", "login", show, is_public=True),
    Route("/login/token", "login.token", log_in, method="POST", is_public=True),
    Route("/logout", "logout", log_out, method="POST", is_public=True),
)
