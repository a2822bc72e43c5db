"""One connection to RabbitMQ with one channel, driven by whichever thread holds it.

A refusal closes the channel, and the connection with it. What may be refused is asked on a second
channel (:meth:`Connection.ask`), which is opened when it is needed.

A plain socket, read with a deadline: there is no loop of events, no thread and
no lock here, so each wait is bounded and a connection may be handed from thread
to thread. pika gives the protocol's vocabulary (see :mod:`.codec`), the reading
of URLs and the credentials.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pika
from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .errors import Blocked, ChannelClosed, Silent, login_refused
from .servers import address, client_properties, dial

_RECEIVE = 256 * 1024
#: A large call is sent in pieces of so many bytes, and what the server says is read in between:
#: were both sides to write only, both would wait for ever.
_PIECE = 256 * 1024
_FRAME_OVERHEAD = 8


#: Opens a connection for its caller alone.
Connect = Callable[[], "Connection"]


class Waker(Protocol):
    """Something that another thread makes readable."""

    def fileno(self) -> int: ...

    def clear(self) -> None:
        """Make it not readable again."""


class Connection:
    """A connection to one RabbitMQ server, with its channel. One thread at a time.

    Attributes:
        contents: deliveries that came and were not taken yet.
        confirms: what became of published messages, likewise.
        returned: messages that no queue took, likewise.
        delivered: the number of the last delivery that came.
        heard_at: monotonic seconds at which the server last said anything.
        is_cancelled: a queue that is consumed here was deleted.
    """

    def __init__(self, server: pika.URLParameters) -> None:
        self.where = address(server)
        self.timeout: float = server.socket_timeout
        self.contents: deque[codec.Content] = deque()
        self.confirms: deque[codec.Confirm] = deque()
        self.returned: list[codec.Content] = []
        self.blocked_by: str | None = None
        self.is_cancelled = False
        self.is_open = True
        self.published = 0
        self.delivered = 0
        self._replies: deque[Any] = deque()
        self._parser = codec.FrameParser()
        self._heartbeat = 0.0
        self._has_side = False
        self._waker: Waker | None = None
        self.heard_at = self._said_at = time.monotonic()
        self._socket = self._connect(server)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._shake_hands(server)
        except BaseException:
            self.abort()
            raise

    # -- opening -------------------------------------------------------------------

    def _connect(self, server: pika.URLParameters) -> socket.socket:
        try:
            return dial(server)
        except ssl.SSLCertVerificationError as error:
            raise BrokerRefused(
                f"expected RabbitMQ at {self.where} to show a certificate that can be trusted, "
                f"got one with: {error.verify_message}; name its authority with ?cafile=… in "
                "RABBITMQ_URL"
            ) from None
        except OSError as error:
            raise self._lost(error) from None

    def _shake_hands(self, server: pika.URLParameters) -> None:
        self._write(codec.GREETING)
        start = self._reply()
        mechanism, response = server.credentials.response_for(start)
        if mechanism is None:
            raise BrokerRefused(f"RabbitMQ at {self.where} takes none of our ways to log in")
        start_ok = spec.Connection.StartOk(client_properties(), mechanism, response, "en_US")
        self._write(codec.method(start_ok, channel=0))
        tune = self._reply()
        wanted = server.heartbeat
        self._heartbeat = float(tune.heartbeat if wanted is None else wanted)
        frame_max = tune.frame_max or 131_072
        self.body_room = frame_max - _FRAME_OVERHEAD
        tune_ok = spec.Connection.TuneOk(tune.channel_max, frame_max, int(self._heartbeat))
        open = spec.Connection.Open(server.virtual_host, insist=True)
        self._write(codec.method(tune_ok, channel=0) + codec.method(open, channel=0))
        self._reply()
        self.calls([spec.Channel.Open()])

    # -- asking ----------------------------------------------------------------------

    def call(self, method: Any) -> Any:
        """One operation; returns the server's answer to it."""
        return self.calls([method])[0]

    def calls(self, methods: Sequence[Any]) -> list[Any]:
        """Many operations in one go, in order; returns the answers.

        Raises:
            ChannelClosed: one was refused; the connection can be used no more.
            BrokerUnavailable, BrokerRefused
        """
        self._write(b"".join(map(codec.method, methods)))
        return [self._reply() for _ in methods]

    def _reply(self) -> Any:
        deadline = time.monotonic() + self.timeout
        while not self._replies:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._lost(TimeoutError())
            self.read(left)
        return self._replies.popleft()

    def ask(self, method: Any) -> Any:
        """One operation that may be refused; returns the server's answer to it.

        Raises:
            ChannelClosed: it was refused; the connection can still be used.
            BrokerUnavailable, BrokerRefused
        """
        answers, refusal = self.ask_all([method])
        if refusal is not None:
            raise refusal
        return answers[0]

    def ask_all(self, methods: Sequence[Any]) -> tuple[list[Any], ChannelClosed | None]:
        """Many operations in one go, in order, up to the first one that is refused.

        Returns:
            The answers to those before it, and the refusal if there is one.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        data = [codec.method(one, channel=codec.SIDE) for one in methods]
        if not self._has_side:
            data.insert(0, codec.method(spec.Channel.Open(), channel=codec.SIDE))
        self._write(b"".join(data))
        if not self._has_side:
            self._reply()
            self._has_side = True
        answers: list[Any] = []
        for _ in methods:
            reply = self._reply()
            if isinstance(reply, codec.Refusal):
                self._has_side = False
                self._write(codec.method(spec.Channel.CloseOk(), channel=codec.SIDE))
                return answers, ChannelClosed(self.where, reply.code, reply.text)
            answers.append(reply)
        return answers, None

    def fence(self) -> None:
        """Return when RabbitMQ has seen all that was sent before: it answers in order."""
        # This one says nothing to consumers that are there already.
        self.call(spec.Basic.Qos(prefetch_count=1))

    # -- publishing --------------------------------------------------------------------

    def confirm(self) -> None:
        """Have RabbitMQ confirm what is published from now on."""
        self.call(spec.Confirm.Select())

    def check(self) -> None:
        """Make sure that what is published next will be looked at.

        A server that is short of memory says so only when it is published to, stops
        reading in the middle of that message and takes it hours later. One that
        hangs, and a connection that is gone, are found out the same way. So this
        publishes something that no queue takes.

        Raises:
            Blocked, BrokerUnavailable
        """
        self.publish(
            [
                codec.publish(
                    "", "formrelay.nowhere", codec.properties("check"), b"?", self.body_room
                )
            ]
        )
        number = self.published
        deadline = time.monotonic() + self.timeout
        while not any(confirm.number >= number for confirm in self.confirms):
            self.wait(deadline)
        self.confirms.clear()
        self.returned.clear()

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send messages; their confirms come by and by, see :meth:`wait`."""
        self.published += len(messages)
        piece: list[bytes] = []
        size = 0
        for message in messages:
            piece.append(message)
            size += len(message)
            if size >= _PIECE:
                self._write(b"".join(piece))
                self.read(0)
                piece, size = [], 0
        self._write(b"".join(piece))

    def wait(self, deadline: float, *, at_most: float = math.inf) -> None:
        """For whatever comes next, until ``deadline`` (monotonic) or ``at_most`` seconds.

        Raises:
            Blocked: it is past, and the server takes no messages.
            BrokerUnavailable: it is past.
        """
        left = deadline - time.monotonic()
        if left > 0:
            self.read(min(left, at_most))
            return
        self.abort()
        if self.blocked_by is not None:
            raise Blocked(
                f"expected RabbitMQ at {self.where} to take messages, it has blocked publishers "
                f"({self.blocked_by}): give it more memory or disk, or let its queues drain"
            )
        raise self._lost(TimeoutError())

    # -- reading and writing -------------------------------------------------------------

    def wake_by(self, waker: Waker) -> None:
        """Let ``waker`` end a wait as well."""
        self._waker = waker
        self._poll.register(waker, select.POLLIN)

    def read(self, timeout: float) -> None:
        """Take in what has come, or what comes within ``timeout`` seconds.

        Raises:
            BrokerUnavailable: the connection is lost.
            ChannelClosed, BrokerRefused: the server ended it.
        """
        if not self.is_open:
            raise self._lost(ConnectionError("closed"))
        if self._heartbeat:
            timeout = min(timeout, self._keep_alive())
        if not self._is_readable(max(timeout, 0.0)):
            return
        try:
            data = self._socket.recv(_RECEIVE)
        except (ssl.SSLWantReadError, TimeoutError):  # half a record of TLS
            return
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost(ConnectionResetError("connection closed by the server"))
        self.heard_at = time.monotonic()
        for found in self._parser.feed(data):
            if type(found) is codec.Content and found.method is None:
                self.contents.append(found)
            elif type(found) is codec.Confirm:
                self.confirms.append(found)
            else:
                self._take(found)
        if self.contents:
            self.delivered = self.contents[-1].number

    def _is_readable(self, timeout: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        try:
            events = self._poll.poll(timeout * 1000)
        except InterruptedError:
            return False
        own = False
        for descriptor, _ in events:
            if self._waker is not None and descriptor == self._waker.fileno():
                self._waker.clear()
            else:
                own = True
        return own

    def _keep_alive(self) -> float:
        """Say that we live where it is time to; returns the seconds until the next time."""
        now = time.monotonic()
        # Where nobody has looked for long, what came meanwhile is still to be read.
        if now - self.heard_at > 2 * self._heartbeat and not self._is_readable(0):
            raise self._lost(TimeoutError())
        left = self._said_at + self._heartbeat / 2 - now
        if left > 0:
            return left
        self._write(codec.HEARTBEAT)
        return self._heartbeat / 2

    def _take(self, found: Any) -> None:
        match found:
            case codec.Content(method=spec.Basic.Return()):
                self.returned.append(found)
            case spec.Connection.Blocked():
                self.blocked_by = str(found.reason)
            case spec.Connection.Unblocked():
                self.blocked_by = None
            case spec.Basic.Cancel():
                self.is_cancelled = True
            case spec.Channel.Close():
                self.abort()
                raise ChannelClosed(self.where, found.reply_code, found.reply_text)
            case spec.Connection.Close():
                self.abort()
                raise login_refused(self.where, found) or self._lost(
                    ConnectionError(found.reply_text)
                )
            case _:
                self._replies.append(found)

    def send(self, data: bytes) -> None:
        """Send encoded frames.

        Raises:
            BrokerUnavailable: the connection is lost.
        """
        self._write(data)

    def _write(self, data: bytes) -> None:
        if not self.is_open:
            raise self._lost(ConnectionError("closed"))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None
        self._said_at = time.monotonic()

    def _lost(self, error: OSError) -> BrokerUnavailable:
        self.abort()
        is_silent = isinstance(error, TimeoutError)
        cause = error.strerror or str(error) or type(error).__name__
        if is_silent:
            cause = f"nothing within {self.timeout:g} s"
        return (Silent if is_silent else BrokerUnavailable)(
            f"expected RabbitMQ at {self.where} to answer, got {cause}; check that it runs and "
            "that RABBITMQ_URL is right"
        )

    # -- closing -----------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye, so that the server need not find out; never raises."""
        if self.is_open:
            with contextlib.suppress(BrokerUnavailable, BrokerRefused):
                self._write(codec.method(spec.Connection.Close(200, "", 0, 0), channel=0))
                deadline = time.monotonic() + min(self.timeout, 1.0)
                while not any(isinstance(one, spec.Connection.CloseOk) for one in self._replies):
                    if time.monotonic() > deadline:
                        break
                    self.read(deadline - time.monotonic())
        self.abort()

    def abort(self) -> None:
        """Close without a word."""
        self.is_open = False
        connection: socket.socket | None = getattr(self, "_socket", None)
        if connection is not None:
            connection.close()
