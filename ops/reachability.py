"""Whether the systems of a worker can be reached: one cheap connection to each, all at once.

Nothing is sent but greetings: no login, no request, no job.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from time import monotonic
from urllib.parse import urlsplit

from ..config import Settings
from ..core.errors import FormrelayError, SinkError, describe
from .probes import answers_within

#: Seconds for all connections together.
LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class Reach:
    """The result of one attempt to connect.

    Attributes:
        took: seconds until the system answered; None if it did not.
        problem: why it did not answer, without secrets.
    """

    took: float | None
    problem: str = ""

    def __str__(self) -> str:
        if self.took is None:
            return "unreachable"
        milliseconds = self.took * 1000
        return f"reachable in {milliseconds:.0f} ms" if milliseconds >= 1 else "reachable in <1 ms"


def reach(probes: Mapping[str, Callable[[], object]], *, limit: float = LIMIT) -> dict[str, Reach]:
    """Run each probe in a thread of its own.

    Args:
        probes: by name, a function that raises if the system does not answer.
        limit: seconds; a system that takes longer is unreachable.
    """
    tasks = {name: partial(_try, probe) for name, probe in probes.items()}
    found = dict(answers_within(limit, tasks))
    late = Reach(None, f"no answer within {limit:g} s")
    return {name: found.get(name, late) for name in probes}


def _try(probe: Callable[[], object]) -> Iterator[Reach]:
    start = monotonic()
    try:
        probe()
    except Exception as error:  # the workers start anyway
        yield Reach(None, problem_of(error))
    else:
        yield Reach(monotonic() - start)


def problem_of(error: Exception) -> str:
    """Describe in a few words why a connection failed, without secrets."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS failed: {error.reason.replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return f"no answer within {LIMIT:g} s"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, FormrelayError):
        return error.strerror
    return describe(error)


def is_embedded_clickhouse(url: str | None) -> bool:
    """Whether ClickHouse runs inside the process, and so in one process at a time."""
    return (url or "").lower().startswith("chdb://")


def connect_to(
    url: str, load_certificate: Callable[[ssl.SSLContext], object] | None = None
) -> None:
    """Connect to the server of an HTTP URL; with https, also agree on TLS.

    Args:
        load_certificate: adds the client certificate, for a server that asks for one.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host = parts.hostname or ""
    with socket.create_connection((host, parts.port or (443 if is_tls else 80)), LIMIT) as plain:
        if is_tls:
            from ..sinks.http.curl import system_ca_file

            context = ssl.create_default_context(cafile=system_ca_file())
            if load_certificate is not None:
                load_certificate(context)
            context.wrap_socket(plain, server_hostname=host).close()


def connect_to_api(settings: Settings) -> None:
    """Connect to the API."""
    section = settings.api
    cert, key = section.client_cert_file, section.client_key_file

    def load(context: ssl.SSLContext) -> None:
        if cert is not None:
            password = section.secret("client_key_password") or ""
            context.load_cert_chain(cert, key, lambda: password)

    connect_to(section.url or "", load)


def greet_smtp(settings: Settings) -> None:
    """Connect to the SMTP server, start TLS and say EHLO, without a login.

    Raises:
        SinkError: it does not answer, or not as expected.
    """
    from ..actors.emails.resources import make_account
    from ..sinks.smtp.probe import try_login

    account = make_account(settings)
    step = timedelta(seconds=LIMIT)
    times = replace(account.timeouts, connect=step, tls=step, greeting=step)
    *_, last = try_login(replace(account, user=None, token=None, timeouts=times))
    if not last.is_ok:
        raise SinkError(last.says)
