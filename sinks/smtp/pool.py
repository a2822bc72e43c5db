"""A pool of SMTP connections.

Threads share at most ``max_connections`` connections of a process, and of all workers if each
connection needs a share (shares.py). The connection used last is used next, so that the others can
be closed when there is less to send.

Dramatiq raises exceptions (time limit, shutdown) in a thread between any two instructions. So the
pool counts nothing: it keeps a set of leases, and ``with`` on a built-in lock is the only lock,
since no such exception can come between taking it and entering the block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import (
    BrokerError,
    DeferReason,
    NotNow,
    SinkError,
    SinkTransient,
    SinkUnavailable,
    describe,
)
from ...core.process import current_pid
from ...core.request_times import Result, count_request, result_of
from .account import Account
from .connection import Lost, TimedOut
from .replies import Reply, UnknownOutcome
from .session import Closing, Session
from .shares import MakeShare
from .transaction import LostAfterDot, OutgoingEmail, make_outgoing_email, transmit

#: Seconds after which a waiting thread looks for a connection, even if nothing wakes it up.
_LOOK_AGAIN = 0.5
_BUSY_AFTER = timedelta(seconds=15)


class _Lease:
    """The right of a thread to one connection."""

    __slots__ = ("is_clean", "session", "was_idle")

    def __init__(self) -> None:
        self.session: Session | None = None
        self.was_idle = False
        self.is_clean = False


class _State:
    """The connections of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.leases: set[_Lease] = set()
        self.idle: list[Session] = []
        #: An entry wakes up one waiting thread.
        self.freed: SimpleQueue[None] = SimpleQueue()
        self.is_closed = False
        self.reaper: threading.Thread | None = None
        self.stopping = threading.Event()


def _open(session: Session) -> None:
    """Open a connection; count it for metrics if that fails, since no e-mail is sent then."""
    started_at = time.monotonic()
    try:
        session.open()
    except SinkError as error:
        count_request("smtp", result_of(error), time.monotonic() - started_at)
        raise


def _transmit(session: Session, email: OutgoingEmail) -> None:
    """Send an e-mail, and count it for metrics by the best result of its recipients."""
    started_at = time.monotonic()
    result: Result = "failed"
    try:
        transmit(session, email)
        result = _result(email)
    except SinkError as error:
        result = result_of(error)
        raise
    finally:
        count_request("smtp", result, time.monotonic() - started_at)


def _result(email: OutgoingEmail) -> Result:
    kinds = {reply.kind for reply in email.replies if reply is not None}
    if "accepted" in kinds:
        return "ok"
    return "busy" if "deferred" in kinds else "refused"


class Pool:
    """Sends e-mails over the connections of an account. Thread-safe.

    A forked process opens connections of its own.

    Args:
        make_share: makes the share of each new connection; None without a limit over all workers.
    """

    def __init__(
        self,
        account: Account,
        *,
        make_share: MakeShare | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._account = account
        self._make_share = make_share
        self._clock = clock
        self._idle = account.idle.total_seconds()
        self._states: dict[int, _State] = {}

    def send(
        self,
        sender: str,
        recipients: Sequence[str],
        data: bytes,
        *,
        smtputf8: bool = False,
        envid: str | None = None,
        before_dot: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> list[Reply]:
        """Send an e-mail and return the reply that decided about each recipient, in order.

        If the server closes the connection (421, or a connection that was used before), and it has
        accepted the e-mail for nobody, a new connection is tried once.

        Args:
            sender: the return path; empty for none.
            recipients: addresses, with domains in ASCII.
            data: the e-mail; lines end with CRLF.
            smtputf8: whether it has headers outside ASCII.
            envid: its id in delivery reports, where the server makes them.
            before_dot: called with the recipients that the server takes, immediately before the
                end of the e-mail is sent; once for each transaction. Nothing is sent if it raises.

        Raises:
            InvalidJob: an address or the e-mail could be taken for a command.
            UnknownOutcome: the connection was lost after the dot.
            SinkUnavailable: no connection, or the server closes it (421); nothing was sent.
            SinkUnready: an operator has to act: certificate, STARTTLS or login.
            SinkTransient: the connection was lost before the dot; nobody got the e-mail.
            NotNow: all connections stayed busy.
            BrokerError: a share, or the token of the login, needs a store that failed.
        """
        email = make_outgoing_email(
            sender, recipients, data, smtputf8=smtputf8, envid=envid, before_dot=before_dot
        )
        self._send(email)
        return [reply for reply in email.replies if reply is not None]

    def close(self) -> None:
        """Close the idle connections now, and connections in use when they are given back."""
        state = self._state()
        with state.lock:
            state.is_closed = True
            sessions, state.idle = state.idle, []
        state.stopping.set()
        for session in sessions:
            session.quit()

    def _send(self, email: OutgoingEmail) -> None:
        """Send an e-mail until the server has decided about all recipients; see :meth:`send`."""
        is_second = False
        while email.pending:
            lease, state = _Lease(), self._state()
            try:
                self._use(state, lease, email, is_fresh=is_second)
            except LostAfterDot as lost:
                raise self._unknown(email, lost) from None
            except (Closing, Lost) as lost:
                is_worth_it = isinstance(lost, Closing) or (
                    lease.was_idle and not isinstance(lost, TimedOut)
                )
                if email.has_accepted or is_second or not is_worth_it:
                    self._end(email, lost)
                is_second = True
            except (SinkError, NotNow, BrokerError) as error:
                # Once the server has accepted something, its replies must not get lost.
                if not email.has_accepted:
                    raise
                self._end(email, Lost(describe(error)))
            finally:
                # Not in a function: an exception that Dramatiq raises could come at its start.
                try:
                    self._give_back(state, lease)
                except BaseException:
                    lease.is_clean = False
                    self._give_back(state, lease)
                    raise

    def _use(self, state: _State, lease: _Lease, email: OutgoingEmail, *, is_fresh: bool) -> None:
        self._take(state, lease)
        if is_fresh:
            # A server that closes one connection often closes all, so no idle connection is tried.
            self._drop_idle(state)
        session = self._usable(state, lease) or self._opened(state, lease)
        _transmit(session, email)
        lease.is_clean = True

    def _usable(self, state: _State, lease: _Lease) -> Session | None:
        """An idle connection; None if there is none."""
        while (session := self._pop_idle(state, lease)) is not None:
            if session.is_usable():
                return session
            session.close()
            lease.session = None
        return None

    def _opened(self, state: _State, lease: _Lease) -> Session:
        """A new connection, or a connection that becomes idle while all shares are taken."""
        session = Session(self._account, self._clock)
        if self._make_share is not None:
            # Made before it is taken: whatever exception comes, closing the session gives it back.
            session.share = share = self._make_share()
            lease.session, lease.was_idle = session, False
            deadline = self._deadline()
            while not share.take():
                lease.session = None
                if (idle := self._usable(state, lease)) is not None:
                    return idle
                lease.session, lease.was_idle = session, False
                self._wait(state, deadline, "SMTP connections of all workers")
        lease.session, lease.was_idle = session, False
        _open(session)
        return session

    def _take(self, state: _State, lease: _Lease) -> None:
        """Wait for the right to a connection."""
        deadline = self._deadline()
        while True:
            with state.lock:
                if state.is_closed:
                    raise SinkUnavailable("the SMTP connections are closed: the process is ending")
                if len(state.leases) < self._account.max_connections:
                    state.leases.add(lease)
                    return
            self._wait(state, deadline, f"{self._account.max_connections} SMTP connections")

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._account.max_wait.total_seconds()

    def _wait(self, state: _State, deadline: float, what: str) -> None:
        """Wait until a connection is given back, or for a moment.

        Raises:
            NotNow: it is too late.
        """
        if self._clock.monotonic() >= deadline:
            wait = self._account.max_wait.total_seconds()
            raise NotNow(
                f"all {what} were busy for {wait:.0f} s",
                after=_BUSY_AFTER,
                reason=DeferReason.BUSY,
            )
        with suppress(Empty):
            state.freed.get(timeout=_LOOK_AGAIN)

    def _pop_idle(self, state: _State, lease: _Lease) -> Session | None:
        with state.lock:
            if state.idle:
                # In this order, a session is always in one of both places.
                lease.session, lease.was_idle = state.idle[-1], True
                state.idle.pop()
        return lease.session

    def _drop_idle(self, state: _State) -> None:
        with state.lock:
            sessions, state.idle = state.idle, []
        for session in sessions:
            session.close()

    def _give_back(self, state: _State, lease: _Lease) -> None:
        """Keep or close the connection of a lease. Can be repeated."""
        session = lease.session
        if session is not None:
            if not lease.is_clean:
                session.close()
            elif session.is_spent or session.is_broken or state.is_closed:
                session.quit()
            session.touch()
        with state.lock:
            keep = session is not None and not session.is_broken and not state.is_closed
            if keep and lease in state.leases and session not in state.idle:
                assert session is not None
                state.idle.append(session)
            state.leases.discard(lease)
        lease.session = None
        if state.freed.qsize() < self._account.max_connections:  # else nobody waits
            state.freed.put(None)
        if keep:
            self._start_reaper(state)

    def _unknown(self, email: OutgoingEmail, lost: Lost) -> UnknownOutcome:
        return UnknownOutcome(
            f"SMTP server {self._account.host}:{self._account.port}: {lost} after the e-mail was "
            "sent: it may have been accepted",
            replies=email.replies,
        )

    def _end(self, email: OutgoingEmail, lost: Closing | Lost) -> None:
        """Decide the pending recipients after the connection is lost for good.

        Raises:
            SinkTransient: nobody got the e-mail.
        """
        if isinstance(lost, Closing):
            if lost.reply.step == "lost" and not email.has_accepted:
                raise lost  # before MAIL
            email.decide(email.pending, lost.reply)
        elif email.has_accepted:
            email.decide(email.pending, Reply(421, "4.4.2", "connection lost", "lost"))
        else:
            raise SinkTransient(
                f"SMTP server {self._account.host}:{self._account.port}: {lost} before the e-mail "
                "was sent; nobody got it"
            ) from None

    def _state(self) -> _State:
        pid = current_pid()
        state = self._states.get(pid)
        if state is None:
            # setdefault is atomic: two threads of a new process get the same state.
            state = self._states.setdefault(pid, _State())
            self._leave_to_parent(pid)
        return state

    def _leave_to_parent(self, pid: int) -> None:
        """In a forked child: close the child's copies of the connections, without QUIT."""
        for other in [key for key in self._states if key != pid]:
            # Its lock may be held by a thread that the child does not have.
            if (state := self._states.pop(other, None)) is not None:
                leased = [lease.session for lease in state.leases]
                for session in [*state.idle, *filter(None, leased)]:
                    session.share = None  # the parent's
                    session.close()

    def _start_reaper(self, state: _State) -> None:
        with state.lock:
            if state.reaper is not None or state.is_closed:
                return
            state.reaper = thread = threading.Thread(
                target=self._reap, args=(state,), name="formrelay-smtp-idle", daemon=True
            )
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending: the e-mail was sent nevertheless
            state.reaper = None

    def _reap(self, state: _State) -> None:
        """Close connections that are idle for too long.

        Runs until the pool is closed: before Python 3.12, an exception that Dramatiq raises in a
        thread that starts another can end the other, and then its start never returns.
        """
        while True:
            now = self._clock.monotonic()
            with state.lock:
                old = [session for session in state.idle if session.expires <= now]
                state.idle = [session for session in state.idle if session.expires > now]
                next_at = min((each.expires for each in state.idle), default=now + self._idle)
            for session in old:
                session.quit()
            if state.stopping.wait(max(next_at - now, 0.01)):
                return
