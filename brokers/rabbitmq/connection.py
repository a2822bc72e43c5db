"""One connection to RabbitMQ with one channel.

A refused operation closes its channel, and :class:`Connection` then closes the connection.
Operations that may be refused therefore run on a second channel (:meth:`Connection.try_calls`),
which is opened when it is needed.

It reads a plain socket with a deadline, without an event loop, a thread or a lock. So every wait is
bounded, and threads can use a connection one after the other. pika provides the protocol's methods
(see :mod:`.codec`).
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pika
from pika import spec

from ..errors import BrokerRefused, BrokerUnavailable
from . import codec
from .errors import NOT_FOUND, ChannelClosed, PublishersBlocked
from .servers import address, client_properties, dial, login_refused, no_answer, server_info

_RECEIVE_BYTES = 256 * 1024
#: Number of bytes sent before the socket is read: if both sides only wrote, both would block.
_CHUNK_BYTES = 256 * 1024
_FRAME_OVERHEAD = 8
#: A routing key for which no exchange of formrelay has a binding.
_UNROUTABLE = "formrelay.nowhere"


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
        server_info: product and version of the server.
        is_cancelled: whether a queue that is consumed here was deleted.
        max_frame_body: maximum number of bytes of a message body in one frame.

    Raises:
        BrokerUnavailable: the server does not answer.
        BrokerRefused: the server refused the certificate, user, password or virtual host.
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
        self._waker: socket.socket | None = None
        self.received_at = self._sent_at = time.monotonic()
        self._socket = dial(server)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        try:
            self._handshake(server)
        except BaseException:
            self.abort()
            raise

    def _handshake(self, server: pika.URLParameters) -> None:
        self.send(codec.GREETING)
        start = self._reply()
        self.server_info = server_info(start)
        mechanism, response = server.credentials.response_for(start)
        if mechanism is None:
            raise BrokerRefused(
                f"expected RabbitMQ at {self.where} to offer the login mechanism PLAIN, got: "
                f"{start.mechanisms}; enable it on the server"
            )
        start_ok = spec.Connection.StartOk(client_properties(), mechanism, response, "en_US")
        self.send(codec.method(start_ok, channel=0))
        tune = self._reply()
        wanted = server.heartbeat
        self._heartbeat = float(tune.heartbeat if wanted is None else wanted)
        frame_max = tune.frame_max or 131_072
        self.max_frame_body = frame_max - _FRAME_OVERHEAD
        tune_ok = spec.Connection.TuneOk(tune.channel_max, frame_max, int(self._heartbeat))
        open = spec.Connection.Open(server.virtual_host, insist=True)
        self.send(codec.method(tune_ok, channel=0) + codec.method(open, channel=0))
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
        self.send(b"".join(map(codec.method, methods)))
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
        self.send(b"".join(data))
        if not self._has_side_channel:
            self._reply()
            self._has_side_channel = True
        answers: list[Any] = []
        for _ in methods:
            reply = self._reply()
            if isinstance(reply, codec.Refusal):
                self._has_side_channel = False
                self.send(codec.method(spec.Channel.CloseOk(), channel=codec.SIDE_CHANNEL))
                return answers, ChannelClosed(self.where, reply.code, reply.text)
            answers.append(reply)
        return answers, None

    def find(self, declaration: Any) -> Any:
        """Call a passive declaration; returns the answer, None if the queue or exchange is missing.

        Raises:
            ChannelClosed: it was refused for another reason; the connection stays open.
            BrokerUnavailable, BrokerRefused
        """
        answers, refusal = self.try_calls([declaration])
        if refusal is None:
            return answers[0]
        if refusal.code != NOT_FOUND or refusal.is_node_down:
            raise refusal
        return None

    def consume(self, queue: str, tag: str, prefetch: int) -> None:
        """Start a consumer; prefetch 0: no limit."""
        qos = spec.Basic.Qos(prefetch_count=prefetch)
        self.calls([qos, spec.Basic.Consume(queue=queue, consumer_tag=tag)])

    def fence(self) -> None:
        """Wait until RabbitMQ has processed everything sent before; it answers in order."""
        # A new prefetch has no effect on existing consumers.
        self.call(spec.Basic.Qos(prefetch_count=1))

    # -- publishing --------------------------------------------------------------------

    def probe(self, exchanges: Sequence[str]) -> None:
        """Publish a message that no queue takes to each exchange, and wait for the confirms.

        A server that is short of memory reports it only to a client that publishes, stops reading
        in the middle of that message and takes the message hours later. The probe also detects a
        server that hangs, a connection that is lost and a missing right to write.

        Raises:
            PublishersBlocked, BrokerUnavailable, ChannelClosed
        """
        head, size = codec.properties("check"), self.max_frame_body
        self.publish([codec.publish(name, _UNROUTABLE, head, b"?", size) for name in exchanges])
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
                self.send(b"".join(piece))
                self.read(0)
                piece, size = [], 0
        self.send(b"".join(piece))

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

    def wake_by(self, waker: socket.socket) -> None:
        """Let a socket that becomes readable end a wait too; it is emptied then."""
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
                with suppress(OSError):
                    self._waker.recv(4096)
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
        self.send(codec.HEARTBEAT)
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
        if not self.is_open:
            raise self._lost(ConnectionError("closed"))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None
        self._sent_at = time.monotonic()

    def _lost(self, error: OSError) -> BrokerUnavailable:
        self.abort()
        return no_answer(self.where, self.timeout, error)

    # -- closing -----------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection with AMQP's closing handshake; never raises."""
        with suppress(BrokerUnavailable, BrokerRefused):
            self.send(codec.method(spec.Connection.Close(200, "", 0, 0), channel=0))
            deadline = time.monotonic() + min(self.timeout, 1.0)
            while (left := deadline - time.monotonic()) > 0 and not any(
                isinstance(reply, spec.Connection.CloseOk) for reply in self._replies
            ):
                self.read(left)
        self.abort()

    def abort(self) -> None:
        """Close the socket without the closing handshake."""
        self.is_open = False
        self._socket.close()
