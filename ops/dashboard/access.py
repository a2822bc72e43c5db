"""Who may use the dashboard: a login by token, a host program's login, or anyone on loopback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hmac import compare_digest
from typing import Protocol

from werkzeug import Request

from ...config import DashboardSettings
from ...core.clock import SYSTEM_CLOCK, Clock
from .sessions import Session, read_session, sign_session

#: The cookie of the session.
COOKIE = "formrelay_session"
#: Names under which a browser reaches a server on this machine.
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
#: Headers by which a proxy is recognised.
_OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


class Role(StrEnum):
    """What a user may do."""

    READ_ONLY = "read-only"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    """A person at the dashboard.

    Attributes:
        name: for the audit log.
        can_log_out: whether the dashboard itself keeps the session.
    """

    name: str
    role: Role
    can_log_out: bool = False

    @property
    def may_change(self) -> bool:
        """Whether the user may change anything, and see payloads."""
        return self.role is Role.OPERATOR


class Access(Protocol):
    """Decides who a request comes from.

    Attributes:
        has_login: whether the dashboard shows a page to log in.
    """

    has_login: bool

    def user(self, request: Request) -> User | None:
        """Return the user of a request; None if there is no valid login."""

    def trusts_host(self, request: Request) -> bool:
        """Whether the application answers a request to this host name, through this proxy."""


class LoopbackAccess:
    """Everyone who reaches this server is an operator; only for a server on loopback.

    Requests through a proxy are refused. The host name must be one of loopback. Otherwise a page of
    another site could let its own name resolve to 127.0.0.1 and read everything (DNS rebinding).
    """

    has_login = False

    def user(self, request: Request) -> User | None:
        return User("local", Role.OPERATOR)

    def trusts_host(self, request: Request) -> bool:
        if any(header in request.headers for header in _OF_PROXIES):
            return False  # a proxy on this machine lets others in
        name, _, port = request.host.rpartition(":")
        host = name if name and port.isdecimal() else request.host
        return host.strip("[]").lower() in LOOPBACK_HOSTS


class HostAccess:
    """The login of a host program, which names the user in the WSGI environment."""

    KEY = "formrelay.dashboard.user"
    has_login = False

    def user(self, request: Request) -> User | None:
        found = request.environ.get(self.KEY)
        return found if isinstance(found, User) else None

    def trusts_host(self, request: Request) -> bool:
        return True


class TokenAccess:
    """A login with a token for each role, and a signed session cookie.

    A cookie is signed with a key made of the token of its role: sessions survive a restart, and a
    new token ends them.

    Args:
        tokens: returns the current token of each role; asked at each use.
    """

    has_login = True

    def __init__(
        self, tokens: Callable[[], Mapping[Role, str]], *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._tokens = tokens
        self._clock = clock

    def user(self, request: Request) -> User | None:
        tokens = {str(role): token for role, token in self._tokens().items()}
        session = read_session(request.cookies.get(COOKIE, ""), tokens, now=self._clock.time())
        return None if session is None else User(session.name, Role(session.role), True)

    def trusts_host(self, request: Request) -> bool:
        return True  # a browser sends the cookie to no other name

    def log_in(self, token: str, name: str) -> str | None:
        """Return the value of a session cookie; None if the token is wrong."""
        found: Role | None = None
        tokens = self._tokens()
        for (
            role,
            expected,
        ) in tokens.items():  # every token, so that the response time reveals nothing
            if compare_digest(token.encode(), expected.encode()):
                found = role
        if found is None:
            return None
        session = Session(found, name.strip()[:60] or found, self._clock.time())
        return sign_session(session, tokens[found])


def tokens_of(settings: DashboardSettings) -> dict[Role, str]:
    """Return the current token of each role that has one."""
    found = {
        Role.OPERATOR: settings.secret("token"),
        Role.READ_ONLY: settings.secret("read_only_token"),
    }
    return {role: token for role, token in found.items() if token is not None}
