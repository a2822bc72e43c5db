"""An SMTP server as a provider runs it: STARTTLS, a login, and greylisting for one domain.

``python -m formrelay.ops.demo.mail_server`` reads its configuration from standard input, see
:mod:`.server`: ``{"fd": listening socket, "folder": for the e-mails, "certificate": PEM file of
certificate and key, "user": …, "password": …}``. It writes each accepted e-mail into a file
``NUMBER.eml`` before it answers.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .mailbox import GREYLISTING, StoredEmail
from .server import configuration


@dataclass
class EmailHandler:
    """Accepts e-mails into a folder."""

    folder: Path
    greylisted: set[str] = field(default_factory=set)
    number: int = 0

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        """Accept a recipient; of the domain that greylists, not at its first attempt."""
        del server, session, options
        if address.endswith(f"@{GREYLISTING}") and address not in self.greylisted:
            self.greylisted.add(address)
            return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Store an e-mail, and answer after that."""
        del server
        if session.ssl is None:
            return "530 5.7.0 use STARTTLS first"
        for address in envelope.rcpt_tos:
            self.number += 1
            was_deferred = address in self.greylisted
            StoredEmail(address, was_deferred, envelope.content).write(self.folder, self.number)
        return "250 2.0.0 taken"


async def serve(config: dict[str, Any]) -> None:
    """Serve on a listening socket until the process is stopped."""
    from aiosmtpd.smtp import SMTP, AuthResult

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(config["certificate"])
    handler, loop = EmailHandler(Path(config["folder"])), asyncio.get_running_loop()

    def login(server: Any, session: Any, envelope: Any, mechanism: str, given: Any) -> Any:
        del server, session, envelope, mechanism
        expected = f"{config['user']}\0{config['password']}".encode()
        is_right = secrets.compare_digest(expected, given.login + b"\0" + given.password)
        return AuthResult(success=is_right, handled=False)

    def smtp() -> Any:
        return SMTP(
            handler,
            loop=loop,
            hostname="mail.demo.example",
            tls_context=tls,
            require_starttls=True,
            authenticator=login,
            auth_required=True,
        )

    listening = await loop.create_server(smtp, sock=socket.socket(fileno=config["fd"]))
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(configuration()))
