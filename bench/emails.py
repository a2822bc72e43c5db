"""Measures e-mails per second into a Postfix, with STARTTLS and a login.

formrelay's pool is compared with a connection for each e-mail (smtplib in as many threads) and
with nodemailer's pool of as many connections. The e-mail is made beforehand.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.servers import PostfixServer

SENDER, RECIPIENT = "forms@here.example", "ann@there.example"
MESSAGE = (
    b"From: forms@here.example\r\nTo: ann@there.example\r\nSubject: A new submission\r\n"
    b"Message-ID: <1@here.example>\r\nDate: Sat, 31 Jan 2026 09:30:00 +0000\r\n\r\n"
    + 60
    * b"An answer of some words, as it stands in a notice.\r\n"
)
#: Messages a connection: the default of formrelay and of nodemailer.
MOST = 100
_NODEMAILER = Path(__file__).with_name("nodemailer")


def emails(contender: str, *, count: int, connections: int, **_: Any) -> Any:
    """E-mails per second that the server accepted.

    Args:
        connections: maximum number of connections at a time.
    """
    send = {"ours": _ours, "smtplib": _smtplib, "nodemailer": _nodemailer}[contender]
    with tempfile.TemporaryDirectory(prefix="formrelay-bench-") as folder:
        authority = Authority(Path(folder))
        with PostfixServer(certificate=authority.issue("bench")) as server:
            seconds = send(server, authority.certificate, count, connections)
    return {"per_second": count / seconds}


def _ours(server: PostfixServer, authority: Path, count: int, connections: int) -> float:
    from formrelay.sinks.smtp.account import Account, make_tls_context
    from formrelay.sinks.smtp.pool import Pool

    pool = Pool(
        Account(
            "localhost",
            server.port,
            user=server.user,
            password=lambda: server.password,
            tls_context=make_tls_context(authority),
            max_connections=connections,
            max_messages=MOST,
        )
    )

    def send(_: int) -> bool:
        return pool.send(SENDER, [RECIPIENT], MESSAGE)[0].kind == "accepted"

    return _timed(send, count, connections)


def _smtplib(server: PostfixServer, authority: Path, count: int, connections: int) -> float:
    context = ssl.create_default_context(cafile=authority)

    def send(_: int) -> bool:
        with smtplib.SMTP("localhost", server.port, local_hostname="here", timeout=60) as client:
            client.starttls(context=context)
            client.login(server.user, server.password)
            return not client.sendmail(SENDER, [RECIPIENT], MESSAGE)

    return _timed(send, count, connections)


def _timed(send: Callable[[int], bool], count: int, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        if not all(pool.map(send, range(count))):
            raise SystemExit("expected all e-mails to be accepted, some were not")
        return time.perf_counter() - start


def _nodemailer(server: PostfixServer, authority: Path, count: int, connections: int) -> float:
    if not (_NODEMAILER / "node_modules").exists():
        install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=_NODEMAILER, check=True, capture_output=True)
    options = {
        "port": server.port,
        "authority": str(authority),
        "user": server.user,
        "password": server.password,
        "connections": connections,
        "most": MOST,
        "count": count,
        "sender": SENDER,
        "recipient": RECIPIENT,
        "message": MESSAGE.decode(),
    }
    command = ["node", "send.js", json.dumps(options)]
    return float(json.loads(subprocess.check_output(command, cwd=_NODEMAILER))["seconds"])
