"""OAuth tokens that all workers share: refreshed once, stored encrypted.

One worker at a time refreshes the token of a connection; the others go on with the old token while
it lasts, or wait. A provider may replace the refresh token at each refresh (rotation), so a new one
is stored before another worker may refresh. A worker that is stopped for so long that its lock ends
cannot overwrite what another worker has stored since: each change needs the generation before it.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import orjson

from ..core.clock import SYSTEM_CLOCK, Clock, iso
from ..core.errors import (
    BrokerError,
    DeferReason,
    NotNow,
    SinkBusy,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
    describe,
)
from .connections import (
    Connection,
    ConnectionPaused,
    ConnectionUnknown,
    GrantRefused,
    Refresh,
    TokensUnreadable,
)
from .digests import digest
from .idempotency import IdempotencyStore
from .key_ring import KeyRing, UnknownKey
from .token_store import Facts, Pause, StoredConnection, TokenStore, keep_of

logger = logging.getLogger("formrelay.workers")

#: How long before its end a token is refreshed; a quarter of its lifetime if that is shorter.
_EARLY = timedelta(minutes=5).total_seconds()
#: A token with this many seconds left can still be used while another worker refreshes it.
_SPARE = 30.0
#: How long a refresh may take before another worker begins a refresh. Longer than its time-outs.
LOCK = timedelta(seconds=30)
#: How long a worker waits for the refresh of another before its job is deferred.
_WAIT = timedelta(seconds=5)
#: A token that was refreshed in the last 30 s is not refreshed again when it is refused: its scope
#: or the connection's rights do not suffice.
_FRESH = 30.0
#: How long a worker tries to store a refreshed token while the store is away, in seconds.
_HOLD_ON = 20.0
_POLL = 0.1
_MAX_ID = 200


@dataclass(frozen=True, slots=True, repr=False)
class _Secrets:
    refresh_token: str
    access_token: str


class Tokens:
    """The tokens of connections. Thread-safe.

    Args:
        store: where connections are stored.
        locks: the idempotency store, which locks a connection while it is refreshed.
        ring: encrypts secrets; None for a store in memory.
        lock: how long a refresh may take before another worker begins a refresh.
        wait: how long a worker waits for the refresh of another.

    Raises (each method):
        BrokerUnavailable, BrokerRefused: the store failed.
    """

    def __init__(
        self,
        store: TokenStore,
        locks: IdempotencyStore,
        ring: KeyRing | None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        lock: timedelta = LOCK,
        wait: timedelta = _WAIT,
    ) -> None:
        self._store, self._locks, self._ring = store, locks, ring
        self._clock = clock
        self._lock, self._wait = lock, wait.total_seconds()

    def adopt(
        self,
        connection: str,
        refresh_token: str,
        *,
        provider: str = "google",
        access_token: str = "",
        expires_at: datetime | None = None,
        scope: str = "",
        keep: timedelta | None = None,
    ) -> bool:
        """Store the tokens of a connection that is not known yet.

        Args:
            connection: its id.
            refresh_token: "" for a connection whose access tokens are made without one.
            provider: name of the provider, for lists.
            access_token: "" for none.
            expires_at: when the access token ends; None if unknown: it is refreshed at once.
            scope: what it may do, for lists.
            keep: time without a refresh after which it is forgotten; None for never.

        Returns:
            False if the connection is known: nothing was changed.
        """
        facts = self._facts(provider, scope, expires_at, keep)
        return self._store.create(
            self._sealed(connection, _Secrets(refresh_token, access_token), facts)
        )

    def consent(
        self,
        connection: str,
        refresh_token: str,
        *,
        provider: str = "google",
        access_token: str = "",
        expires_at: datetime | None = None,
        scope: str = "",
        keep: timedelta | None = None,
    ) -> None:
        """Store the tokens of a new consent in place of earlier tokens, and end a pause.

        Arguments as of :meth:`adopt`.
        """
        facts = self._facts(provider, scope, expires_at, keep)
        self._store.put(self._sealed(connection, _Secrets(refresh_token, access_token), facts))

    def access_token(self, connection: str, refresh: Refresh, *, refused: str | None = None) -> str:
        """Return an access token; refresh it first if it ends soon.

        Args:
            refresh: refreshes the token; called by one worker at a time.
            refused: the access token that the other side refused (401). It is returned again if
                it was refreshed within the last 30 s: then its rights do not suffice.

        Raises:
            ConnectionPaused: the connection is paused, or was paused by this call.
            ConnectionUnknown: there is no such connection.
            TokensUnreadable: no key of STATE_KEY decrypts its tokens.
            NotNow: another worker's refresh took too long.
            SinkError: the refresh failed.
        """
        deadline = time.monotonic() + self._wait
        while True:
            stored = self._load(connection)
            secrets = self._open(stored)
            if not self._must_refresh(stored, secrets, refused):
                return secrets.access_token
            owner = uuid4().hex
            key = digest("tokens", connection)
            if self._locks.begin(key, owner, self._lock) is None:
                try:
                    return self._refreshed(connection, refresh, refused)
                finally:
                    with suppress(BrokerError):  # the lock will expire
                        self._locks.release(key, owner)
            if self._is_usable(stored, secrets, refused):
                return secrets.access_token
            if time.monotonic() >= deadline:
                raise NotNow(
                    f"another worker is refreshing the token of connection {connection}",
                    after=timedelta(seconds=5),
                    reason=DeferReason.BUSY,
                )
            time.sleep(_POLL)

    def pause(self, connection: str, cause: str) -> bool:
        """Pause a connection for an operator; False if it is unknown, or paused already."""
        return self._store.pause(connection, Pause("operator", cause, self._clock.time()))

    def resume(self, connection: str) -> bool:
        """End a pause; False if there is none. A new consent ends it by itself."""
        return self._store.resume(connection)

    def remove(self, connection: str) -> bool:
        """Forget a connection; False if it is unknown."""
        return self._store.remove(connection)

    def connections(self) -> list[Connection]:
        """List all connections, by id."""
        return sorted(map(_connection, self._store.all()), key=lambda each: each.id)

    def reencrypt(self) -> int:
        """Encrypt all secrets with the first key, so that the other keys can be removed.

        Returns:
            The number of connections.

        Raises:
            TokensUnreadable: no key of STATE_KEY decrypts the tokens of a connection.
        """
        if self._ring is None:
            return 0
        count = 0
        for stored in self._store.all():
            try:
                new = self._ring.rotate(stored.sealed)
            except UnknownKey:
                raise _unreadable(stored.connection) from None
            count += self._store.reseal(stored.connection, stored.sealed, new)
        return count

    def unreadable(self) -> list[str]:
        """The ids of connections whose tokens no key of STATE_KEY decrypts, for checks."""
        found = []
        for stored in self._store.all():
            try:
                self._open(stored)
            except TokensUnreadable:
                found.append(stored.connection)
        return sorted(found)

    def _refreshed(self, connection: str, refresh: Refresh, refused: str | None) -> str:
        """Refresh with the lock; returns the access token."""
        stored = self._load(connection)
        secrets = self._open(stored)
        if not self._must_refresh(stored, secrets, refused):
            return secrets.access_token  # another worker has refreshed it
        self._store.begin(connection, stored.generation, self._clock.time())
        try:
            found = refresh(secrets.refresh_token)
        except GrantRefused as error:
            self._refuse(stored, error)
            return self._refreshed(connection, refresh, refused)
        except SinkTransient as error:
            if isinstance(error, SinkUnavailable | SinkBusy | SinkUnready):  # it did nothing
                with suppress(BrokerError):
                    self._store.begin(connection, stored.generation, 0.0)
            if self._is_usable(stored, secrets, refused):
                return secrets.access_token
            raise
        now = self._clock.time()
        lasts = max(1.0, found.lasts.total_seconds())
        facts = replace(
            stored.facts,
            scope=found.scope or stored.facts.scope,
            refreshed_at=now,
            expires_at=now + lasts,
            lasts=lasts,
        )
        new = _Secrets(found.refresh_token or secrets.refresh_token, found.access_token)
        sealed = replace(self._sealed(connection, new, facts), generation=stored.generation)
        self._keep(sealed, is_rotated=found.refresh_token not in (None, secrets.refresh_token))
        return found.access_token

    def _keep(self, sealed: StoredConnection, *, is_rotated: bool) -> None:
        """Store refreshed tokens; try again for a while if the store is away.

        Raises:
            BrokerError: the store is away for too long, and the refresh token is the old one.
        """
        ends, about = time.monotonic() + _HOLD_ON, {"connection": sealed.connection}
        while True:
            try:
                if not self._store.replace(sealed):
                    logger.info("another worker refreshed a token first", extra=about)
                return
            except BrokerError as error:
                if time.monotonic() >= ends:
                    if not is_rotated:
                        raise
                    why = {"error_message": describe(error)}
                    logger.critical("could not store a new refresh token", extra=about | why)
                    return
            time.sleep(_POLL)

    def _refuse(self, stored: StoredConnection, error: GrantRefused) -> None:
        """Pause a connection whose refresh was refused, unless it has other tokens by now.

        Raises:
            ConnectionPaused
        """
        connection, cause = stored.connection, self._cause(stored, error)
        pause = Pause("provider", cause, self._clock.time())
        if self._store.pause(connection, pause, stored.generation):
            about = {"connection": connection, "error_message": cause, "code": error.code}
            logger.error("pausing connection: its consent has ended", extra=about)
            raise ConnectionPaused(connection, cause) from None
        current = self._load(connection)  # raises if it is paused
        if current.generation == stored.generation:  # resumed at this moment
            raise ConnectionPaused(connection, cause) from None

    def _cause(self, stored: StoredConnection, error: GrantRefused) -> str:
        """The likely cause of a refusal; otherwise the possible causes."""
        if stored.refreshing_at:
            return (
                f"a refresh at {iso(stored.refreshing_at)} got no answer or its worker died, so "
                "that a new refresh token may be lost: let the person consent again. "
                f"Otherwise: {error.cause}"
            )
        if error.guess is None:
            return error.cause
        now, facts = self._clock.time(), stored.facts
        age, idle = now - facts.granted_at, now - (facts.refreshed_at or facts.granted_at)
        return error.guess(timedelta(seconds=age), timedelta(seconds=idle)) or error.cause

    def _load(self, connection: str) -> StoredConnection:
        stored = self._store.load(connection)
        if stored is None:
            raise ConnectionUnknown(
                f"expected a connection with the id {_check_id(connection)}, found none: "
                "somebody has to consent, or its id is wrong"
            )
        if stored.pause is not None:
            raise ConnectionPaused(connection, stored.pause.cause)
        return stored

    def _must_refresh(
        self, stored: StoredConnection, secrets: _Secrets, refused: str | None
    ) -> bool:
        left = stored.facts.expires_at - self._clock.time()
        early = min(_EARLY, stored.facts.lasts / 4 or _EARLY)
        if not secrets.access_token or left <= early:
            return True
        age = self._clock.time() - stored.facts.refreshed_at
        return secrets.access_token == refused and not 0 <= age < _FRESH

    def _is_usable(self, stored: StoredConnection, secrets: _Secrets, refused: str | None) -> bool:
        has_time = stored.facts.expires_at - self._clock.time() > _SPARE
        return bool(secrets.access_token) and secrets.access_token != refused and has_time

    def _facts(
        self, provider: str, scope: str, expires_at: datetime | None, keep: timedelta | None
    ) -> Facts:
        now = self._clock.time()
        ends = 0.0 if expires_at is None else expires_at.timestamp()
        return Facts(provider, scope, granted_at=now, expires_at=ends, keep=keep_of(keep))

    def _sealed(self, connection: str, secrets: _Secrets, facts: Facts) -> StoredConnection:
        # With the id, so that nobody can give a connection the secrets of another.
        data = orjson.dumps([_check_id(connection), secrets.refresh_token, secrets.access_token])
        return StoredConnection(
            connection, data if self._ring is None else self._ring.encrypt(data), facts
        )

    def _open(self, stored: StoredConnection) -> _Secrets:
        """Decrypt.

        Raises:
            TokensUnreadable
        """
        try:
            data = stored.sealed if self._ring is None else self._ring.decrypt(stored.sealed)
            connection, refresh_token, access_token = orjson.loads(data)
        except (UnknownKey, ValueError):
            raise _unreadable(stored.connection) from None
        if connection != stored.connection:
            raise _unreadable(stored.connection)
        return _Secrets(refresh_token, access_token)


def _check_id(connection: str) -> str:
    if not connection or len(connection) > _MAX_ID or not connection.isprintable():
        raise ValueError(f"expected a connection's id of 1 to {_MAX_ID} printable characters")
    return connection


def _unreadable(connection: str) -> TokensUnreadable:
    return TokensUnreadable(
        f"expected STATE_KEY to have the key that encrypted the tokens of connection {connection}, "
        "it does not: add that key behind a comma, or let somebody consent again"
    )


def _connection(stored: StoredConnection) -> Connection:
    facts, pause = stored.facts, stored.pause
    return Connection(
        stored.connection,
        facts.provider,
        facts.scope,
        datetime.fromtimestamp(facts.granted_at, UTC),
        _time(facts.refreshed_at),
        _time(facts.expires_at),
        None if pause is None else pause.cause,
        None if pause is None else _time(pause.at),
    )


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
