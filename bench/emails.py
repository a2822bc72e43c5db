"""Measures e-mails per second into a Postfix, with STARTTLS and a login.

formrelay's pool is compared with a connection for each e-mail (smtplib in as many threads) and
with nodemailer's pool of as many connections. The e-mail is made beforehand. The server keeps it
and does not deliver it, because its deliveries would take CPU from the contenders.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.servers import PostfixServer

SENDER, RECIPIENT = "forms@here.example", "kept@there.example"
MESSAGE = (
    b"From: forms@here.example\r\nTo: kept@there.example\r\nSubject: A new submission\r\n"
    b"Message-ID: <1@here.example>\r\nDate: Sat, 31 Jan 2026 09:30:00 +0000\r\n\r\n"
    + 60
    * b"An answer of some words, as it stands in a notice.\r\n"
)
#: Messages a connection: the default of formrelay and of nodemailer.
MOST = 100
_NODEMAILER = Path(__file__).with_name("nodemailer")
_RELAY = Path(__file__).with_name("distance.py")


def emails(contender: str, *, count: int, connections: int, distance: float = 0.0, **_: Any) -> Any:
    """E-mails per second that the server accepted.

    Args:
        connections: maximum number of connections at a time.
        distance: seconds that a packet takes to the server, and back.
    """
    send = {"ours": _ours, "smtplib": _smtplib, "nodemailer": _nodemailer}[contender]
    with tempfile.TemporaryDirectory(prefix="formrelay-bench-") as folder:
        authority = Authority(Path(folder))
        with (
            PostfixServer(certificate=authority.issue("bench")) as server,
            _at(distance, server.port) as port,
        ):
            # The first e-mails start the server's processes.
            _smtplib(server.port, authority.certificate, 20 * connections, connections)
            seconds = send(port, authority.certificate, count, connections)
    return {"per_second": count / seconds}


@contextmanager
def _at(distance: float, port: int) -> Iterator[int]:
    """The port of a server that is farther away by ``distance``."""
    if not distance:
        yield port
        return
    command = [sys.executable, str(_RELAY), str(port), str(distance)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        try:
            yield int(relay.stdout.readline())
        finally:
            relay.stdin.close()


def _ours(port: int, authority: Path, count: int, connections: int) -> float:
    from formrelay.sinks.smtp.account import Account, make_tls_context
    from formrelay.sinks.smtp.pool import Pool

    pool = Pool(
        Account(
            "localhost",
            port,
            user=PostfixServer.user,
            password=lambda: PostfixServer.password,
            tls_context=make_tls_context(authority),
            max_connections=connections,
            max_messages=MOST,
        )
    )

    def send(_: int) -> bool:
        return pool.send(SENDER, [RECIPIENT], MESSAGE)[0].kind == "accepted"

    return _timed(send, count, connections)


def _smtplib(port: int, authority: Path, count: int, connections: int) -> float:
    context = ssl.create_default_context(cafile=authority)

    def send(_: int) -> bool:
        with smtplib.SMTP("localhost", port, local_hostname="here", timeout=60) as client:
            client.starttls(context=context)
            client.login(PostfixServer.user, PostfixServer.password)
            return not client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    return _timed(send, count, connections)


def _timed(send: Callable[[int], bool], count: int, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        if not all(pool.map(send, range(count))):
            raise SystemExit("expected all e-mails to be accepted, some were not")
        return time.perf_counter() - start


def _nodemailer(port: int, authority: Path, count: int, connections: int) -> float:
    if not (_NODEMAILER / "node_modules").exists():
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=_NODEMAILER, check=True, capture_output=True)
    options = {
        "port": port,
        "authority": str(authority),
        "user": PostfixServer.user,
        "password": PostfixServer.password,
        "connections": connections,
        "most": MOST,
        "count": count,
        "sender": SENDER,
        "recipient": RECIPIENT,
        "message": MESSAGE.decode(),
    }
    command = ["node", "send.js", json.dumps(options)]
    return float(json.loads(subprocess.check_output(command, cwd=_NODEMAILER))["seconds"])
