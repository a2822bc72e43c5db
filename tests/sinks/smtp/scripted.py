"""A scripted SMTP server: a stand-in for what real servers cannot be made to do.

It closes, stalls, answers 421 or sends garbage at any step, and counts what it accepted. Real
servers (aiosmtpd, Postfix, OpenSMTPD) are in the other files of this folder.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

#: What to send instead of the usual reply: bytes; or an action of this module.
Answer = bytes | Callable[["Scripted", "Talk"], bytes | None]

USUAL: dict[str, bytes] = {
    "banner": b"220 ready\r\n",
    "EHLO": b"250-here\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n",
    "HELO": b"250 here\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go\r\n",
    "dot": b"250 2.0.0 queued\r\n",
    "RSET": b"250 2.0.0 reset\r\n",
    "NOOP": b"250 2.0.0 ok\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
    "STARTTLS": b"220 go\r\n",
    "AUTH": b"235 2.7.0 hello\r\n",
}


@dataclass
class Talk:
    """One connection."""

    socket: socket.socket
    number: int
    commands: list[str] = field(default_factory=list)


@dataclass
class Scripted:
    """The server: what it is to answer, and what it got.

    Attributes:
        answers: for a step (a command, ``banner`` or ``dot``), the answers in order over all
            connections; then the usual answers follow. ``always`` never runs out.
        commands: all commands of all connections.
        messages: accepted messages, with the recipients accepted for them.
    """

    answers: dict[str, list[Answer | None]] = field(default_factory=dict)
    always: dict[str, Answer] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    port: int = 0
    commands: list[str] = field(default_factory=list)
    messages: list[tuple[list[str], bytes]] = field(default_factory=list)
    talks: list[Talk] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, step: str, talk: Talk) -> bytes | None:
        """The bytes to send; None closes the connection."""
        with self.lock:
            waiting = self.answers.get(step)
            chosen = waiting.pop(0) if waiting else None
        chosen = chosen if chosen is not None else self.always.get(step, USUAL[step])
        return chosen(self, talk) if callable(chosen) else chosen


def close(server: Scripted, talk: Talk) -> None:
    """Close the connection instead of an answer."""


def stall(server: Scripted, talk: Talk) -> None:
    """Answer nothing until the client closes the connection."""
    with contextlib.suppress(OSError):
        while not server.stopping.is_set() and talk.socket.recv(4096):
            pass


def then_close(reply: bytes) -> Answer:
    """Answer, then close the connection."""

    def send(server: Scripted, talk: Talk) -> None:
        talk.socket.sendall(reply)

    return send


def drip(server: Scripted, talk: Talk) -> None:
    """Send a byte of a line without an end now and then."""
    with contextlib.suppress(OSError):
        while not server.stopping.wait(0.02):
            talk.socket.sendall(b"2")


def endless_lines(server: Scripted, talk: Talk) -> None:
    """Send lines of a reply without an end."""
    with contextlib.suppress(OSError):
        while not server.stopping.is_set():
            talk.socket.sendall(b"250-more\r\n" * 100)


def endless_line(server: Scripted, talk: Talk) -> None:
    """Send one line without an end."""
    with contextlib.suppress(OSError):
        while not server.stopping.is_set():
            talk.socket.sendall(b"250 " + b"x" * 4096)


@contextmanager
def scripted(server: Scripted) -> Iterator[Scripted]:
    """Serve until the block ends."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                talk = Talk(connection, len(server.talks))
                server.talks.append(talk)
                thread = threading.Thread(target=_serve, args=(server, talk), daemon=True)
                threads.append(thread)
                thread.start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield server
        finally:
            server.stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            for talk in server.talks:
                with contextlib.suppress(OSError):
                    talk.socket.shutdown(socket.SHUT_RDWR)
            for thread in [acceptor, *threads]:
                thread.join(10)


def _serve(server: Scripted, talk: Talk) -> None:
    talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with server.lock:
        server.open_now += 1
        server.most_open = max(server.most_open, server.open_now)
    try:
        with contextlib.suppress(OSError, EOFError):
            _converse(server, talk)
    finally:
        with server.lock:
            server.open_now -= 1
        talk.socket.close()


def _converse(server: Scripted, talk: Talk) -> None:
    reader = talk.socket.makefile("rb")
    recipients: list[str] = []
    has_sender = False

    def say(step: str, message: bytes = b"") -> bytes:
        reply = server.answer(step, talk)
        if reply is None:
            raise EOFError
        if step == "dot" and reply.startswith(b"250"):
            with server.lock:
                server.messages.append((recipients, message))
        talk.socket.sendall(reply)
        return reply

    say("banner")
    while line := reader.readline():
        command = line.decode("utf-8", "replace").rstrip("\r\n")
        verb = command.split(" ")[0].split(":")[0].upper()
        with server.lock:
            server.commands.append(command)
        talk.commands.append(command)
        usual = verb not in server.always and not server.answers.get(verb)
        if usual and ((verb == "RCPT" and not has_sender) or (verb == "DATA" and not recipients)):
            talk.socket.sendall(b"503 5.5.1 out of order\r\n")
            continue
        reply = say(verb if verb in USUAL else "NOOP")
        if verb in ("MAIL", "RSET"):
            recipients, has_sender = [], verb == "MAIL" and reply.startswith(b"250")
        elif verb == "RCPT" and reply.startswith(b"25"):
            recipients.append(command.partition("<")[2].partition(">")[0])
        elif verb == "DATA" and reply.startswith(b"354"):
            data = b""
            while (piece := reader.readline()) != b".\r\n":
                if not piece:
                    raise EOFError
                data += piece
            talk.commands.append(".")
            with server.lock:
                server.commands.append(".")
            say("dot", data)
        elif verb == "STARTTLS" and reply.startswith(b"220") and server.tls:
            reader.close()
            talk.socket = server.tls.wrap_socket(talk.socket, server_side=True)
            reader = talk.socket.makefile("rb")
        elif verb == "QUIT":
            return
