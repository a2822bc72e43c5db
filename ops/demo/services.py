"""Starts and stops the services of the demo: broker, API, receiver and workers."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_urlsafe
from socket import socket
from typing import NamedTuple

from redis import RedisError

from ...brokers import RelayBroker, get_broker
from ...brokers.redis.broker import RedisBroker
from ...config import Settings, get_settings, use_settings
from ...core.errors import FormrelayError
from .certificate import write_certificate
from .client import Client, set_webhook
from .environment import MailAccount, demo_variables, signing_secret, write_env_file
from .errors import DemoFailed
from .interrupts import ignore
from .processes import Children, listen, port_of
from .spreadsheet import CONNECTION

_THREADS = 8
#: Maximum wait for the embedded broker to stop; its keeper checks it every 0.5 s.
_SHUTDOWN_SECONDS = 5.0
_POLL_SECONDS = 0.02


class Queues(NamedTuple):
    """The names of the queues that the demo uses."""

    submissions: str
    events: str
    webhooks: str
    emails: str
    sheets: str


@dataclass(frozen=True, slots=True)
class Services:
    """The running services and their clients.

    Attributes:
        mail: folder of the e-mails that the SMTP server has accepted.
        smtp: address of the SMTP server.
        sheet: the spreadsheet, without the token that its API needs.
    """

    children: Children
    broker: RelayBroker
    queues: Queues
    api: Client
    receiver: Client
    mail: Path
    smtp: str
    sheet: Client

    def unsettled(self, queue: str) -> int:
        """Return the number of unsettled messages of a queue."""
        counts = self.broker.counts(queue)
        return counts.waiting + (counts.scheduled or 0) + (counts.in_flight or 0)


@contextmanager
def start_services(
    folder: Path,
    *,
    paths: Mapping[str, str],
    api_port: int = 0,
    receiver_port: int = 0,
    receiver_secret: str | None = None,
) -> Iterator[Services]:
    """Start broker, servers and workers in a folder, and stop them at the end.

    Args:
        paths: form id to path of the receiver for its webhooks.
        receiver_secret: as in :class:`.run.Options`.

    Raises:
        CannotStart: a port is in use.
        DemoFailed, BrokerError: a service did not start.
    """
    token, secret = token_urlsafe(32), signing_secret()
    children = Children(folder)
    try:
        # This process opens the sockets, so it knows the ports before the servers run.
        with (
            listen(api_port, "--api-port") as api_socket,
            listen(receiver_port, "--receiver-port") as receiver_socket,
            listen(0) as mail_socket,
            listen(0) as sheet_socket,
        ):
            api = _serve_api(children, folder, api_socket, token)
            receiver = _serve_receiver(children, receiver_socket, receiver_secret or secret)
            account = MailAccount(port_of(mail_socket), folder / "smtp.pem")
            mail = _serve_mail(children, folder, mail_socket, account)
            sheet = _serve_sheet(children, sheet_socket, token)

        queues = _configure(demo_variables(folder, api.url, token, account, sheet.url), folder)
        _consent(token)
        _start_workers(children, queues)
        broker = get_broker()
        for form_id, path in paths.items():
            set_webhook(api, form_id, receiver.url + path, secret)
        children.check()
        smtp = f"127.0.0.1:{account.port}"
        yield Services(children, broker, queues, api, receiver, mail, smtp, sheet)
    except BaseException:
        children.stop(timeout=0)  # the run is abandoned
        raise
    finally:
        ignore()
        children.stop()
        if (folder / "valkey").exists():
            _shut_down(folder)


def _serve_api(children: Children, folder: Path, listening: socket, token: str) -> Client:
    config = {"token": token, "database": str(folder / "api.sqlite3")}
    children.serve("api", "formrelay.ops.demo.site", listening, config)
    return Client("API", port_of(listening), token)


def _serve_receiver(children: Children, listening: socket, secret: str) -> Client:
    children.serve("receiver", "formrelay.ops.demo.receiver", listening, {"secret": secret})
    return Client("webhook receiver", port_of(listening))


def _serve_sheet(children: Children, listening: socket, token: str) -> Client:
    children.serve("spreadsheet", "formrelay.ops.demo.spreadsheet", listening, {"token": token})
    return Client("spreadsheet", port_of(listening))


def _serve_mail(children: Children, folder: Path, listening: socket, account: MailAccount) -> Path:
    """Start the SMTP server; return the folder of the e-mails that it accepts."""
    mail = folder / "mail"
    mail.mkdir()
    write_certificate(account.certificate, "127.0.0.1")
    config = {
        "folder": str(mail),
        "certificate": str(account.certificate),
        "user": account.user,
        "password": account.password,
    }
    children.serve("smtp", "formrelay.ops.demo.mail_server", listening, config)
    return mail


def _start_workers(children: Children, queues: Queues) -> None:
    # Only one process at a time can open the embedded ClickHouse, so events have a worker.
    children.work("worker events", [queues.events], _THREADS)
    others = [queues.submissions, queues.webhooks, queues.emails, queues.sheets]
    children.work("worker submissions", others, _THREADS)


def _consent(token: str) -> None:
    """Store the tokens with which jobs write into the spreadsheet, as after a person's consent."""
    from ...actors.resources import open_tokens  # which reads the settings

    ends = datetime.now(UTC) + timedelta(days=1)
    open_tokens(get_settings()).consent(CONNECTION, "none", access_token=token, expires_at=ends)


def _configure(values: Mapping[str, str], folder: Path) -> Queues:
    """Apply the settings to the children, through ``.env``, and to this process."""
    write_env_file(folder, values)
    settings = Settings.load(environ=values, env_file=None)
    use_settings(settings)  # before anything imports formrelay.actors
    return Queues(
        settings.submissions.queue,
        settings.events.queue,
        settings.webhooks.queue,
        settings.emails.queue,
        settings.sheets.queue,
    )


def _shut_down(folder: Path) -> None:
    """Stop the embedded broker now, without its idle time.

    Raises:
        DemoFailed: it still runs.
    """
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    with suppress(OSError), (folder / "valkey" / "keeper.lock").open("a") as lock:
        while time.monotonic() < deadline:
            # An interrupted start is completed first; otherwise the broker would start later,
            # with nobody to stop it.
            with suppress(FormrelayError, RedisError):
                broker = get_broker()
                assert isinstance(broker, RedisBroker)
                broker.client.shutdown(save=False)  # the append-only file is synced
                broker.close()
                break
            time.sleep(_POLL_SECONDS)
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_POLL_SECONDS)
    raise DemoFailed(
        f"the embedded broker in {folder} still runs after {_SHUTDOWN_SECONDS:g} s; it stops by "
        "itself some seconds after its last user"
    )
