"""Everything that the demo starts, and its end."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import RedisError

from ...brokers import RelayBroker, get_broker
from ...brokers.redis.broker import RedisBroker
from ...config import Settings, use_settings
from ...core.errors import FormrelayError
from .client import Client, set_webhook
from .environment import Secrets, variables, write_env_file
from .interrupts import ignore
from .processes import Children, listen, port_of

_THREADS = 8
#: The embedded broker's keeper looks every half second whether its server is there.
_KEEPER_SECONDS = 5.0
_MOMENT = 0.02


@dataclass(frozen=True, slots=True)
class Queues:
    """The names of the queues that the demo uses."""

    submissions: str
    events: str
    webhooks: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs, and the ways to ask it."""

    children: Children
    broker: RelayBroker
    queues: Queues
    api: Client
    receiver: Client


@contextmanager
def stage(
    folder: Path,
    *,
    paths: Mapping[str, str],
    api_port: int = 0,
    receiver_port: int = 0,
    receiver_secret: str | None = None,
) -> Iterator[Stage]:
    """Broker, API, receiver and workers in a folder; all ended on the way out.

    Args:
        paths: of the receiver, by the form whose webhooks go there.
        receiver_secret: as in :class:`.run.Options`.

    Raises:
        CannotStart: a port is in use.
        DemoFailed, BrokerError: something did not start.
    """
    secrets = Secrets.random()
    children = Children(folder)
    try:
        # The parent opens the sockets: so it knows the ports before anybody answers there.
        with (
            listen(api_port, "--api-port") as api_socket,
            listen(receiver_port, "--receiver-port") as receiver_socket,
        ):
            api = Client("API", port_of(api_socket), secrets.token)
            receiver = Client("webhook receiver", port_of(receiver_socket))
            told: dict[str, Any] = {"token": secrets.token, "database": str(folder / "api.sqlite3")}
            children.serve("api", "formrelay.ops.demo.site", api_socket, told)
            told = {"secret": receiver_secret or secrets.signing}
            children.serve("receiver", "formrelay.ops.demo.receiver", receiver_socket, told)

        queues = _configure(variables(folder, api.url, secrets.token), folder)
        # The embedded ClickHouse is open in one process at a time, so events have their own.
        children.work("worker events", [queues.events], _THREADS)
        others = [queues.submissions, queues.webhooks]
        children.work("worker submissions", others, _THREADS)
        broker = get_broker()
        for form_id, path in paths.items():
            set_webhook(api, form_id, receiver.url + path, secrets.signing)
        children.check()
        yield Stage(children, broker, queues, api, receiver)
    except BaseException:
        children.stop(patience=0)  # nobody waits for what they are doing
        raise
    finally:
        ignore()
        children.stop()
        if (folder / "valkey").exists():
            _shut_down(folder)


def _configure(values: Mapping[str, str], folder: Path) -> Queues:
    """The same settings for the children, by a file, and for this process."""
    write_env_file(folder, values)
    settings = Settings.load(environ=values, env_file=None)
    use_settings(settings)  # before anything imports formrelay.actors
    return Queues(settings.submissions.queue, settings.events.queue, settings.webhooks.queue)


def _shut_down(folder: Path) -> None:
    """End the embedded broker now, not some idle seconds later."""
    deadline = time.monotonic() + _KEEPER_SECONDS
    with suppress(OSError), (folder / "valkey" / "keeper.lock").open("a") as lock:
        while time.monotonic() < deadline:
            # Where its start was interrupted, it is finished first: else it would come up
            # when nobody is there to end it.
            with suppress(FormrelayError, RedisError):
                broker = get_broker()
                assert isinstance(broker, RedisBroker)
                broker.client.shutdown(save=False)  # its append-only file is written and synced
                broker.close()
                break
            time.sleep(_MOMENT)
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_MOMENT)
