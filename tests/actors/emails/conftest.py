"""Fixtures: an SMTP server in this process, and the e-mail worker configured to send to it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP
from pydantic import SecretStr

from tests.actors.conftest import Site


class MailServer:
    """Accepts e-mails, unless told otherwise.

    Attributes:
        accepted: sender, recipients and content of each accepted e-mail.
        answers: replies to RCPT by address, one for each time; afterwards it accepts.
        at_dot: replies to the end of an e-mail, one for each time; None closes the connection.
    """

    def __init__(self) -> None:
        self.accepted: list[tuple[str, list[str], bytes]] = []
        self.answers: dict[str, list[str]] = {}
        self.at_dot: list[str | None] = []
        self.on_dot: Callable[[], object] = lambda: None
        self.port = 0

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if replies := self.answers.get(address):
            return replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 taken"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.on_dot()
        reply = self.at_dot.pop(0) if self.at_dot else "250 2.0.0 taken"
        if reply is None or reply.startswith("250"):
            self.accepted.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        if reply is None:
            server.transport.abort()
            return "421 closed"
        return reply

    @property
    def messages(self) -> list[EmailMessage]:
        return [
            email.message_from_bytes(content, policy=email.policy.default)
            for _, _, content in self.accepted
        ]

    @property
    def recipients(self) -> list[list[str]]:
        return [recipients for _, recipients, _ in self.accepted]


@pytest.fixture
def server() -> Iterator[MailServer]:
    """The mail server."""
    found = MailServer()
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        listening = await loop.create_server(lambda: SMTP(found, loop=loop), "127.0.0.1", 0)
        found.port = listening.sockets[0].getsockname()[1]
        started.set()

    def run() -> None:
        task = loop.create_task(serve())
        loop.run_forever()
        task.cancel()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


class Mailing:
    """Sends e-mails through a worker."""

    def __init__(self, site: Site, server: MailServer) -> None:
        self.site, self.server = site, server

    def use(self, **changes: Any) -> None:
        """Change the settings of the worker."""
        base = {"sender": "Forms <forms@sender.example>"}
        smtp = {"url": SecretStr(f"smtp+none://127.0.0.1:{self.server.port}")}
        self.site.use(emails=base | changes, smtp=smtp)

    def payload(self, **changes: Any) -> dict[str, Any]:
        found = {
            "to": ["Ann <ann@one.example>"],
            "subject": "Hello",
            "template": "autoresponse",
            "data": {"title": "Thanks", "message": "We have your answer."},
        }
        return found | changes

    def send(self, **changes: Any) -> Any:
        metadata = changes.pop("metadata", None)
        return self.site.actors.send_email.send(self.payload(**changes), metadata)

    def work_off(self) -> None:
        self.site.work_off("emails")

    def outcome(self, **changes: Any) -> list[Any]:
        """Send an e-mail, work the queue off, and return the dead letters."""
        self.send(**changes)
        self.work_off()
        return self.site.dead("emails")


@pytest.fixture
def mailing(site: Site, server: MailServer) -> Mailing:
    """The worker, which sends to the server."""
    found = Mailing(site, server)
    found.use()
    return found
