"""``formrelay dashboard``: serve the dashboard."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer

from ...brokers import get_broker
from ...config import Settings, get_settings
from ...core.errors import ConfigError
from ...core.hosts import is_loopback
from ..output import say
from ..own_actors import import_actors

#: Maximum bytes of a request.
_MAX_BODY_BYTES = 8 * 1024 * 1024
#: Maximum number of connections, and seconds after which an idle connection is closed.
_MAX_CONNECTIONS, _IDLE_SECONDS = 500, 20
#: Seconds in which a Redis that did not answer is not asked again: each thread would wait.
_REST = 5.0


def dashboard(
    bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address to listen on.")
    ] = "127.0.0.1:8765",
    prefix: Annotated[
        str, typer.Option(help="Path below which a proxy serves the dashboard, like /ops.")
    ] = "",
    trust_proxy: Annotated[
        bool,
        typer.Option(
            "--trust-proxy",
            help="Believe X-Forwarded-For, -Proto, -Host and -Prefix. Only behind a proxy that "
            "sets all of them.",
        ),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Number of threads.")] = 8,
) -> None:
    """Serve the dashboard: queues, jobs, dead letters, workers.

    Without DASHBOARD_TOKEN it needs no login and listens on loopback alone.

    Example: formrelay dashboard --bind 127.0.0.1:8765
    """
    host, port = _address(bind)
    import_actors()
    settings = get_settings()
    app, tasks = _app(settings, host, prefix, trust_proxy)
    broker = get_broker()
    if broker.state is not None:
        broker.state.client.be_impatient(_REST)
    broker.ping(())
    # As Ctrl-C does: the tasks are stopped between two steps, and say so.
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        _serve(app, host, port, prefix, threads)
    finally:
        tasks.stop()
        signal.signal(signal.SIGTERM, before)


def _exit(*_: object) -> None:
    raise SystemExit(0)


def _app(settings: Settings, host: str, prefix: str, trust_proxy: bool) -> tuple[Any, Any]:
    try:
        from ..dashboard import make_app
        from ..dashboard.access import Access, LoopbackAccess, TokenAccess, tokens_of
        from ..dashboard.tasks import Tasks
    except ImportError as error:
        raise ConfigError(
            f"expected the package {error.name} for the dashboard, which is not installed: "
            "pip install 'formrelay[dashboard]'"
        ) from None
    access: Access
    if tokens_of(settings.dashboard):
        access = TokenAccess(lambda: tokens_of(settings.dashboard))
    elif is_loopback(host):
        access = LoopbackAccess()
    else:
        raise ConfigError(
            f"expected DASHBOARD_TOKEN for a dashboard on {host}, which other machines can reach, "
            "got none: set it to a random text of at least 16 characters, or --bind 127.0.0.1:8765"
        )
    tasks = Tasks()
    app = make_app(get_broker, access=access, prefix=prefix, trust_proxy=trust_proxy, tasks=tasks)
    return app, tasks


def _serve(app: Any, host: str, port: int, prefix: str, threads: int) -> None:
    server = make_server(app, host, port, threads)
    shown = f"[{host}]" if ":" in host else host
    port = getattr(server, "effective_port", port)  # port 0 takes any free port
    path = prefix.strip("/")
    say(f"dashboard: http://{shown}:{port}/{path + '/' if path else ''}  (Ctrl-C stops it)")
    try:
        server.run()
    finally:
        server.close()


def make_server(app: Any, host: str, port: int, threads: int) -> Any:
    """Make the WSGI server of the dashboard.

    Raises:
        ConfigError: the address cannot be used.
    """
    import waitress

    try:
        return waitress.create_server(
            app,
            host=host,
            port=port,
            threads=threads,
            # Connections that send nothing must not keep others out.
            connection_limit=_MAX_CONNECTIONS,
            channel_timeout=_IDLE_SECONDS,
            cleanup_interval=_IDLE_SECONDS // 2,
            asyncore_use_poll=True,  # select() takes no more than 1,024 files
            ident=None,  # or each answer would name the server
            max_request_body_size=_MAX_BODY_BYTES,
            clear_untrusted_proxy_headers=False,  # the application decides about them
        )
    except OSError as error:
        raise ConfigError(
            f"expected to listen on {host}:{port}, got: {error.strerror}; choose another --bind"
        ) from None


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(
            f"expected an address like 127.0.0.1:8765, got {text!r}", param_hint="--bind"
        )
    return host, int(port)
