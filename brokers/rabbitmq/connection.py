"""One connection to RabbitMQ with one channel.

A refused operation closes its channel, and :class:`Connection` then closes the connection.
Operations that may be refused therefore run on a second channel (:meth:`Connection.try_call`),
which is opened when it is needed.

It reads a plain socket with a deadline, without an event loop, a thread or a lock. So every wait is
bounded, and threads can use a connection one after the other. pika provides the protocol's methods
(see :mod:`.codec`), the parsing of URLs and the credentials.
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
from .errors import ChannelClosed, NoAnswer, PublishersBlocked, login_refused
from .servers import address, client_properties, dial

_RECEIVE_BYTES = 256 * 1024
#: Number of bytes sent before the socket is read: if both sides only wrote, both would block.
_CHUNK_BYTES = 256 * 1024
_FRAME_OVERHEAD = 8


#: Opens a connection that only the caller uses.
Connect = Callable[[], "Connection"]


class Waker(Protocol):
    """A file descriptor that another thread makes readable."""

    def fileno(self) -> int: ...

    def clear(self) -> None:
        """Make the file descriptor not readable again."""


class Connection:
    """A connection to one RabbitMQ server, with its channel. Used by one thread at a time.

    Attributes:
        contents: received deliveries that the caller has not removed yet.
        confirms: received confirms that the caller has not removed yet.
        returned: published messages that no queue took, until the caller removes them.
        published: number of messages published.
        delivered: delivery tag of the last received delivery.
        received_at: monotonic seconds at which the last bytes were received.
        blocked_by: why the server blocks publishers; None if it does not.
        is_cancelled: whether a queue that is consumed here was deleted.
        max_frame_body: maximum number of bytes of a message body in one frame.
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
        self._has_side_channel = False
        self._waker: Waker | None = None
        self.received_at = self._sent_at = time.monotonic()
        self._socket = self._connect(server)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._handshake(server)
        except BaseException:
            self.abort()
            raise

    # -- opening -------------------------------------------------------------------

    def _connect(self, server: pika.URLParameters) -> socket.socket:
        try:
            return dial(server)
        except ssl.SSLCertVerificationError as error:
            raise BrokerRefused(
                f"expected RabbitMQ at {self.where} to present a trusted certificate, got: "
                f"{error.verify_message}; name its certificate authority with ?cafile=… in "
                "RABBITMQ_URL"
            ) from None
        except OSError as error:
            raise self._lost(error) from None

    def _handshake(self, server: pika.URLParameters) -> None:
        self._write(codec.GREETING)
        start = self._reply()
        mechanism, response = server.credentials.response_for(start)
        if mechanism is None:
            raise BrokerRefused(
                f"expected RabbitMQ at {self.where} to offer the login mechanism PLAIN, got: "
                f"{start.mechanisms}; enable it on the server"
            )
        start_ok = spec.Connection.StartOk(client_properties(), mechanism, response, "en_US")
        self._write(codec.method(start_ok, channel=0))
        tune = self._reply()
        wanted = server.heartbeat
        self._heartbeat = float(tune.heartbeat if wanted is None else wanted)
        frame_max = tune.frame_max or 131_072
        self.max_frame_body = frame_max - _FRAME_OVERHEAD
        tune_ok = spec.Connection.TuneOk(tune.channel_max, frame_max, int(self._heartbeat))
        open = spec.Connection.Open(server.virtual_host, insist=True)
        self._write(codec.method(tune_ok, channel=0) + codec.method(open, channel=0))
        self._reply()
        self.calls([spec.Channel.Open()])

    # -- operations ------------------------------------------------------------------

    def call(self, method: Any) -> Any:
        """Call one method; returns the answer."""
        return self.calls([method])[0]

    def calls(self, methods: Sequence[Any]) -> list[Any]:
        """Call several methods in one write, in order; returns the answers.

        Raises:
            ChannelClosed: a method was refused, and the connection is closed.
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

    def try_call(self, method: Any) -> Any:
        """Call one method that may be refused; returns the answer.

        Raises:
            ChannelClosed: the method was refused; the connection stays open.
            BrokerUnavailable, BrokerRefused
        """
        answers, refusal = self.try_calls([method])
        if refusal is not None:
            raise refusal
        return answers[0]

    def try_calls(self, methods: Sequence[Any]) -> tuple[list[Any], ChannelClosed | None]:
        """Call several methods in one write, in order, until one is refused.

        Returns:
            The answers to the methods before the refusal, and the refusal or None.

        Raises:
            BrokerUnavailable, BrokerRefused
        """
        data = [codec.method(method, channel=codec.SIDE_CHANNEL) for method in methods]
        if not self._has_side_channel:
            data.insert(0, codec.method(spec.Channel.Open(), channel=codec.SIDE_CHANNEL))
        self._write(b"".join(data))
        if not self._has_side_channel:
            self._reply()
            self._has_side_channel = True
        answers: list[Any] = []
        for _ in methods:
            reply = self._reply()
            if isinstance(reply, codec.Refusal):
                self._has_side_channel = False
                self._write(codec.method(spec.Channel.CloseOk(), channel=codec.SIDE_CHANNEL))
                return answers, ChannelClosed(self.where, reply.code, reply.text)
            answers.append(reply)
        return answers, None

    def fence(self) -> None:
        """Wait until RabbitMQ has processed everything sent before; it answers in order."""
        # A new prefetch has no effect on existing consumers.
        self.call(spec.Basic.Qos(prefetch_count=1))

    # -- publishing --------------------------------------------------------------------

    def confirm(self) -> None:
        """Turn on publisher confirms."""
        self.call(spec.Confirm.Select())

    def check(self) -> None:
        """Publish a message that no queue takes, to test whether the server accepts publishes.

        A server that is short of memory reports it only to a client that publishes, stops reading
        in the middle of that message and takes the message hours later. The test also detects a
        server that hangs and a connection that is lost.

        Raises:
            PublishersBlocked, BrokerUnavailable
        """
        self.publish(
            [
                codec.publish(
                    "", "formrelay.nowhere", codec.properties("check"), b"?", self.max_frame_body
                )
            ]
        )
        number = self.published
        deadline = time.monotonic() + self.timeout
        while not any(confirm.delivery_tag >= number for confirm in self.confirms):
            self.wait(deadline)
        self.confirms.clear()
        self.returned.clear()

    def publish(self, messages: Sequence[bytes]) -> None:
        """Send messages without waiting for their confirms (see :meth:`wait`)."""
        self.published += len(messages)
        piece: list[bytes] = []
        size = 0
        for message in messages:
            piece.append(message)
            size += len(message)
            if size >= _CHUNK_BYTES:
                self._write(b"".join(piece))
                self.read(0)
                piece, size = [], 0
        self._write(b"".join(piece))

    def wait(self, deadline: float, *, at_most: float = math.inf) -> None:
        """Wait until the server sends something, at most ``at_most`` seconds.

        Args:
            deadline: monotonic seconds.

        Raises:
            PublishersBlocked: the deadline has passed, and the server blocks publishers.
            BrokerUnavailable: the deadline has passed.
        """
        left = deadline - time.monotonic()
        if left > 0:
            self.read(min(left, at_most))
            return
        self.abort()
        if self.blocked_by is not None:
            raise PublishersBlocked(
                f"expected RabbitMQ at {self.where} to take messages, it has blocked publishers "
                f"({self.blocked_by}): give it more memory or disk, or drain its queues"
            )
        raise self._lost(TimeoutError())

    # -- reading and writing -------------------------------------------------------------

    def set_waker(self, waker: Waker) -> None:
        """Let ``waker`` end a wait too."""
        self._waker = waker
        self._poll.register(waker, select.POLLIN)

    def read(self, timeout: float) -> None:
        """Receive what the server has sent, or sends within ``timeout`` seconds.

        Raises:
            BrokerUnavailable: the connection is lost.
            ChannelClosed, BrokerRefused: the server closed the channel or the connection.
        """
        if not self.is_open:
            raise self._lost(ConnectionError("closed"))
        if self._heartbeat:
            timeout = min(timeout, self._keep_alive())
        if not self._is_readable(max(timeout, 0.0)):
            return
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (ssl.SSLWantReadError, TimeoutError):  # an incomplete TLS record
            return
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost(ConnectionResetError("connection closed by the server"))
        self.received_at = time.monotonic()
        for found in self._parser.feed(data):
            if type(found) is codec.Content and found.method is None:
                self.contents.append(found)
            elif type(found) is codec.Confirm:
                self.confirms.append(found)
            else:
                self._dispatch(found)
        if self.contents:
            self.delivered = self.contents[-1].delivery_tag

    def _is_readable(self, timeout: float) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        try:
            events = self._poll.poll(timeout * 1000)
        except InterruptedError:
            return False
        is_readable = False
        for descriptor, _ in events:
            if self._waker is not None and descriptor == self._waker.fileno():
                self._waker.clear()
            else:
                is_readable = True
        return is_readable

    def _keep_alive(self) -> float:
        """Send a heartbeat if it is due; returns the seconds until the next heartbeat."""
        now = time.monotonic()
        # If nobody has read for long, the server's heartbeats may still be unread.
        if now - self.received_at > 2 * self._heartbeat and not self._is_readable(0):
            raise self._lost(TimeoutError())
        left = self._sent_at + self._heartbeat / 2 - now
        if left > 0:
            return left
        self._write(codec.HEARTBEAT)
        return self._heartbeat / 2

    def _dispatch(self, found: Any) -> None:
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
        self._sent_at = time.monotonic()

    def _lost(self, error: OSError) -> BrokerUnavailable:
        self.abort()
        is_timeout = isinstance(error, TimeoutError)
        cause = error.strerror or str(error) or type(error).__name__
        if is_timeout:
            cause = f"nothing within {self.timeout:g} s"
        return (NoAnswer if is_timeout else BrokerUnavailable)(
            f"expected RabbitMQ at {self.where} to answer, got {cause}; check that it runs and "
            "that RABBITMQ_URL is right"
        )

    # -- closing -----------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection with AMQP's closing handshake; never raises."""
        if self.is_open:
            with contextlib.suppress(BrokerUnavailable, BrokerRefused):
                self._write(codec.method(spec.Connection.Close(200, "", 0, 0), channel=0))
                deadline = time.monotonic() + min(self.timeout, 1.0)
                while not any(
                    isinstance(reply, spec.Connection.CloseOk) for reply in self._replies
                ):
                    if time.monotonic() > deadline:
                        break
                    self.read(deadline - time.monotonic())
        self.abort()

    def abort(self) -> None:
        """Close the socket without the closing handshake."""
        self.is_open = False
        connection: socket.socket | None = getattr(self, "_socket", None)
        if connection is not None:
            connection.close()
