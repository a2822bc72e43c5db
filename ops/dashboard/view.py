"""A request as a page sees it: user, broker, fields; rendering, redirects and the audit log."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import orjson
from werkzeug import Request, Response
from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.routing import MapAdapter
from werkzeug.utils import redirect

from ...brokers import RelayBroker
from ...core.printable import check_id, read_id
from ...state.audit import Via
from ..audit import Operator, record
from ..health.summary import worker_health
from .access import Access, HostAccess, User
from .assets import asset_names
from .cached import Cached
from .endpoint_list import Rates, cached_rates
from .external_systems import ExternalSystem, external_systems
from .failed_logins import FailedLogins
from .figures import Figures
from .queue_list import QueueList
from .rendering import environment
from .tasks import Tasks

#: The cookie of the message that is shown once.
FLASH_COOKIE = "formrelay_flash"
_LONGEST_FLASH = 500
#: Seconds between two refreshes of a page.
REFRESH_SECONDS = 5

Kind = Literal["done", "problem"]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and the function that answers it.

    Attributes:
        name: name for links, unique in the dashboard.
        handler: answers a request.
        label: text in the navigation; None: not in the navigation.
        method: GET for everyone, or POST for operators. A POST changes something, reveals a
            payload, or sends personal data, which must not be in a URL.
        is_public: whether it needs no login.
    """

    path: str
    name: str
    handler: Callable[[View], Response]
    label: str | None = None
    method: Literal["GET", "POST"] = "GET"
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What all requests share.

    Attributes:
        access: decides who requests come from.
        open_broker: returns the broker; raises a ``FormrelayError`` if it cannot be used.
        navigation: the routes in the navigation.
        queue_list: the names of the queues.
        figures: rates and durations of the queues.
        external_systems: external systems, for the overview.
        tasks: replays and deletes many dead letters in threads.
        rates: success rates of webhook endpoints.
        failed_logins: failed logins by address.
        health: the health of the workers, at most two seconds old.
    """

    access: Access
    open_broker: Callable[[], RelayBroker]
    navigation: Sequence[Route]
    queue_list: QueueList = field(default_factory=QueueList)
    figures: Figures = field(default_factory=Figures)
    external_systems: Cached[list[ExternalSystem]] = field(
        default_factory=lambda: Cached(external_systems, 4.0)
    )
    tasks: Tasks = field(default_factory=Tasks)
    rates: Cached[Rates] = field(default_factory=cached_rates)
    failed_logins: FailedLogins = field(default_factory=FailedLogins)
    health: Cached[dict[str, Any]] = field(default_factory=lambda: Cached(worker_health, 2.0))


class View:
    """A request, and the ways to answer it.

    Attributes:
        user: who sent the request; None only on the login page.
    """

    def __init__(
        self, site: Site, request: Request, urls: MapAdapter, user: User | None = None
    ) -> None:
        self.site = site
        self.request = request
        self.user = user
        self._urls = urls

    @cached_property
    def broker(self) -> RelayBroker:
        """The broker.

        Raises:
            FormrelayError: it is not configured, or does not answer.
        """
        return self.site.open_broker()

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self.broker.clock.time()

    @property
    def is_refresh(self) -> bool:
        """Whether the script of an open page asks for the page again."""
        return "X-Formrelay-Refresh" in self.request.headers

    @property
    def may_change(self) -> bool:
        """Whether the user is an operator."""
        return self.user is not None and self.user.may_change

    # -- reading the request -----------------------------------------------------------

    def argument(self, name: str, default: str | None = None) -> str:
        """Return an argument of the query string.

        Raises:
            BadRequest: it is missing and there is no default.
        """
        return _given(self.request.args.get(name), name, default)

    def field(self, name: str, default: str | None = None) -> str:
        """Return a field of a form.

        Raises:
            BadRequest: it is missing and there is no default.
        """
        return _given(self.request.form.get(name), name, default)

    def id_argument(self, name: str) -> str:
        """Return a queue's name or an id of the query string, written with the filter ``id``."""
        return page_id(self.argument(name))

    def id_field(self, name: str) -> str:
        """Return a queue's name or an id of a form, written with the filter ``id``."""
        return page_id(self.field(name))

    # -- answering ---------------------------------------------------------------------

    def url(self, name: str, /, **arguments: Any) -> str:
        """Return the URL of a route; arguments that are None are left out."""
        given = {key: value for key, value in arguments.items() if value is not None}
        return self._urls.build(name, given)

    def asset(self, name: str) -> str:
        """Return the URL of a static file."""
        return self.url("asset", name=asset_names()[name])

    def render(self, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
        """Render a page."""
        text = (
            environment()
            .get_template(template)
            .render(
                {
                    "view": self,
                    "title": title,
                    "url": self.url,
                    "asset": self.asset,
                    "user": self.user,
                    "may_change": self.may_change,
                    "navigation": self._navigation(),
                    "flash": self._flash,
                    "refresh_seconds": REFRESH_SECONDS,
                    **values,
                }
            )
        )
        response = Response(text, status=status, content_type="text/html; charset=utf-8")
        if FLASH_COOKIE in self.request.cookies:
            response.delete_cookie(FLASH_COOKIE, path=self.cookie_path)
        return response

    def redirect(
        self, name: str, /, *, flash: str | None = None, kind: Kind = "done", **arguments: Any
    ) -> Response:
        """Redirect to a route after a form, with a message for its page."""
        response: Any = redirect(self.url(name, **arguments), code=303)
        if flash is not None:
            value = urlsafe_b64encode(json.dumps([kind, flash[:_LONGEST_FLASH]]).encode())
            self.set_cookie(response, FLASH_COOKIE, value.decode(), max_age=60)
        made: Response = response
        return made

    def set_cookie(self, response: Response, name: str, value: str, *, max_age: int) -> None:
        """Set a cookie that no script and no other site can use."""
        response.set_cookie(
            name,
            value,
            max_age=max_age,
            path=self.cookie_path,
            httponly=True,
            secure=self.request.is_secure,
            samesite="Strict",
        )

    @property
    def cookie_path(self) -> str:
        """The path of the dashboard."""
        return self.request.root_path + "/" if self.request.root_path != "/" else "/"

    @staticmethod
    def not_found(text: str) -> NotFound:
        """Make the error of a page that does not exist: ``raise view.not_found("…")``."""
        return NotFound(text)

    # -- audit -------------------------------------------------------------------------

    @property
    def operator(self) -> Operator:
        """The user, as the audit log names operators."""
        name = "" if self.user is None else self.user.name
        via: Via = "django" if isinstance(self.site.access, HostAccess) else "dashboard"
        return Operator(name, via)

    def record(
        self, action: str, *, filter: str = "", count: int | None = None, **target: str
    ) -> None:
        """Write an action to the audit log.

        Args:
            action: as the command that does the same: ``dlq replay``.
            filter: the selection in words.
            count: number of messages or entries that were changed.
            target: the changed object, such as ``queue=…, id=…``; never a payload value.
        """
        words = ", ".join(f"{name} {value}" for name, value in target.items())
        about: dict[str, Any] = {"filter": filter, "count": count}
        record(action, words, operator=self.operator, broker=self.broker, **about)

    # -- internal ----------------------------------------------------------------------

    def _navigation(self) -> Sequence[Route]:
        return self.site.navigation if self.user is not None else ()

    @property
    def _flash(self) -> tuple[str, str] | None:
        try:
            found = orjson.loads(urlsafe_b64decode(self.request.cookies.get(FLASH_COOKIE, "")))
            kind, text = map(str, found)
        except (ValueError, TypeError):
            return None
        return ("problem" if kind == "problem" else "done", text[:_LONGEST_FLASH])


def _given(value: str | None, name: str, default: str | None) -> str:
    found = default if value is None else value
    if found is None:
        raise BadRequest(f"expected the field '{name}', got none")
    return found


def page_id(text: str) -> str:
    """Read a queue's name, or an id or its beginning, written with the filter ``id``.

    Raises:
        BadRequest: no message can have this id.
    """
    try:
        return check_id(read_id(text))
    except ValueError:
        raise BadRequest("expected an id as the pages write it") from None
