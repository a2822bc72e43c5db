"""Starts worker processes, after checking the configuration, the broker and the sinks."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import NoReturn

import dramatiq
from dramatiq.middleware import Middleware

from ...brokers import RelayBroker, get_broker
from ...config import LoggingSettings, Settings, get_settings
from ...core.errors import (
    ConfigError,
    FormrelayError,
    InvalidJob,
    SinkBusy,
    SinkTransient,
    SinkUnavailable,
)
from ..metrics.files import WorkerFiles
from ..own_actors import import_actors
from ..reachability import is_embedded_clickhouse
from .banner import announce
from .late_middleware import LateMiddleware
from .process_output import close_worker_output, is_worker_process, setup_worker_output
from .recycling import Recycling, ping
from .sentry import SentryReports
from .signals import handle_stop_signals, stopped_before_start
from .systemd import SystemdNotify
from .time_limits import exceeding_time_limits
from .trace_export import TraceExport

logger = logging.getLogger("formrelay.workers")

#: Exit status of a command: the thing asked about is not fine; wrong use.
NOT_FINE, WRONG_USE = 1, 2
#: What to do if a sink is missing that this worker does not need.
OTHER_QUEUES = "name the queues of this worker (formrelay worker QUEUE, dramatiq --queues)"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an expected error without a traceback, and exit the process."""
    try:
        yield
    except FormrelayError as error:
        from ..output import say_error  # not needed by a worker that starts

        for line in str(error).split("\n"):
            say_error(f"formrelay: {line}")
        sys.exit(exit_status(error))


def exit_status(error: FormrelayError) -> int:
    """Exit status for ``error``."""
    return WRONG_USE if isinstance(error, ConfigError | InvalidJob) else NOT_FINE


def boot(declare: Callable[[], object] = import_actors) -> RelayBroker:
    """Read the configuration, set up logs, declare the actors and ping the broker."""
    if is_worker_process():
        handle_stop_signals()
    with one_line_errors():
        setup_worker_output(LoggingSettings())  # for warnings about the settings
        setup_worker_output(get_settings().logging)
        recycling = Recycling(get_settings().recycling)
        declare()
        broker = get_broker()
        ping(broker, ())  # checks no queue: this worker's queues are known later
    broker.add_middleware(_WorkerBoot())
    broker.add_middleware(LateMiddleware())
    broker.add_middleware(TraceExport(get_settings().tracing))
    broker.add_middleware(SentryReports(get_settings().sentry))
    broker.add_middleware(SystemdNotify(get_settings().systemd))
    _serve_metrics(broker, get_settings())
    if recycling.is_wanted:  # its hook would cost each job some time
        broker.add_middleware(recycling)
    _monitor(broker, get_settings())
    return broker


def _serve_metrics(broker: RelayBroker, settings: Settings) -> None:
    if settings.worker_http.port is None:
        return
    from ..health.pages import add_health_pages
    from ..metrics.process import WorkerHttp

    add_health_pages()
    with one_line_errors():
        broker.add_middleware(WorkerHttp(settings.worker_http, settings.broker.kind))


def _monitor(broker: RelayBroker, settings: Settings) -> None:
    if not settings.monitoring.enabled:
        return
    from ..monitor.in_worker import MonitorInWorker

    broker.add_middleware(MonitorInWorker(settings))


class _WorkerBoot(Middleware):
    """Checks the queues and sinks of a worker before it takes a job."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        assert isinstance(broker, RelayBroker)
        with one_line_errors():
            check_queues(worker.consumer_whitelist)
            leave_out_optional(worker)
            ping(broker, worker.consumer_whitelist or None)
            check_sinks(worker.consumer_whitelist)
        for problem in exceeding_time_limits(broker):
            logger.warning("a job may run twice", extra={"error_message": problem})

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        close_worker_output()  # Dramatiq closes the pipe next


def leave_out_optional(worker: dramatiq.Worker) -> None:
    """Let a worker of all queues leave out the queues of e-mails and sheets if they are not set up.

    Both are optional, so a worker without them may start. A worker that names the queue is refused.
    """
    if worker.consumer_whitelist:
        return
    settings, known = get_settings(), get_broker().queues
    left_out = set()
    if settings.smtp.url is None and settings.emails.queue in known:
        left_out.add(settings.emails.queue)
        about = {"queue": settings.emails.queue}
        logger.info("e-mails are not sent: SMTP_URL is not set", extra=about)
    if not settings.sheets.is_configured and settings.sheets.queue in known:
        left_out.add(settings.sheets.queue)
        about = {"queue": settings.sheets.queue}
        logger.info("sheets are not updated: no Google account is configured", extra=about)
    if left_out:
        worker.consumer_whitelist = _AllBut(left_out)  # type: ignore[assignment]  # not a plain set


class _AllBut(AbstractSet[str]):
    """Every queue but some, queues that are declared later included."""

    def __init__(self, names: AbstractSet[str]) -> None:
        self._names = names

    def __contains__(self, queue: object) -> bool:
        return queue not in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(get_broker().queues - self._names)

    def __len__(self) -> int:
        return len(get_broker().queues)


def check_sinks(queues: Collection[str] | None, *, clickhouse: bool = True) -> dict[str, str]:
    """Check the sinks of ``queues`` (None: all queues).

    A sink that is unavailable does not stop the worker: its jobs wait.

    Args:
        clickhouse: whether to check ClickHouse too; an embedded one is opened by the check.

    Returns:
        By the name of a sink that was called, ``ClickHouse``, why it does not answer, or "".

    Raises:
        ConfigError: a sink is not configured, or rejects the credentials.
    """
    settings = get_settings()
    problems = missing_sinks(settings, queues)
    sends_emails = settings.smtp.url is not None and _takes(settings.emails.queue, queues)
    if sends_emails:
        from ...actors.emails.checks import problems_of_emails

        problems += problems_of_emails()
    if problems:
        raise ConfigError("\n".join(problems))
    if sends_emails:
        _check_emails()
    if settings.sheets.is_configured and _takes(settings.sheets.queue, queues):
        _check_sheets()
    if clickhouse and _takes(settings.events.queue, queues):
        return {"ClickHouse": _check_clickhouse()}
    return {}


def missing_sinks(settings: Settings, queues: Collection[str] | None) -> list[str]:
    """Return a line for each sink of ``queues`` (None: all queues) that is not configured."""
    found = []
    forms = {settings.submissions.queue, settings.partials.queue}
    if settings.api.url is None and (not queues or forms & set(queues)):
        found.append(
            "expected API_URL for the queue of submissions, got none: set it to "
            f"https://your-django-site, or {OTHER_QUEUES}"
        )
    if settings.clickhouse.url is None and _takes(settings.events.queue, queues):
        found.append(
            f"expected CLICKHOUSE_URL for the queue of events, got none: set it, or {OTHER_QUEUES}"
        )
    if settings.smtp.url is None and queues and settings.emails.queue in queues:
        from ...actors.emails.resources import missing_smtp_url

        found.append(missing_smtp_url())
    if not settings.sheets.is_configured and queues and settings.sheets.queue in queues:
        from ...actors.sheets.resources import missing_account

        found.append(missing_account())
    return found


def _takes(queue: str, queues: Collection[str] | None) -> bool:
    return not queues or queue in queues


def settings_of_workers(queues: Collection[str] | None) -> Settings:
    """Return the settings.

    Raises:
        ConfigError: a variable is invalid, or the broker is missing; then the message names the
            missing sinks too.
    """
    try:
        return get_settings()
    except ConfigError as error:
        missing = [] if error.settings is None else missing_sinks(error.settings, queues)
        # An invalid variable has no value in the settings: it is not missing.
        names = [line.split()[1].rstrip(",").removesuffix("_FILE") for line in missing]
        new = [
            line
            for line, name in zip(missing, names, strict=True)
            if not re.search(rf"\b{name}(_FILE)?\b", str(error))
        ]
        raise type(error)("\n".join([str(error), *new])) from None


def check_queues(queues: Collection[str] | None) -> None:
    """Check that every queue in ``queues`` is declared.

    Raises:
        ConfigError: a queue is not declared; a worker would wait for its jobs forever.
    """
    known = get_broker().queues
    for queue in queues or ():
        if queue not in known:
            raise ConfigError(
                f"expected a queue ({', '.join(sorted(known))}), got {queue!r}: name the module of "
                "its actors with --import or FORMRELAY_IMPORTS"
            )


def _check_emails() -> None:
    """Prepare everything but the SMTP server, which may be unavailable."""
    from ...actors.emails.checks import problems_of_templates
    from ...actors.emails.resources import email_resources

    email_resources()
    queue = get_settings().emails.queue
    for problem in problems_of_templates():
        # The worker starts nevertheless: these e-mails are dead-lettered, and can be replayed.
        about = {"queue": queue, "error_message": problem}
        logger.error("a template cannot be used", extra=about)
    if get_broker().state is None:
        logger.warning(
            "e-mails may be sent twice: set STATE_URL to a Redis URL", extra={"queue": queue}
        )


def _check_sheets() -> None:
    """Check everything but Google, which may be unavailable."""
    from ...actors.sheets.resources import sheet_resources

    sheet_resources()
    if get_broker().state is None:
        logger.warning(
            "rows may be written twice, and OAuth tokens are kept in this process alone: set "
            "STATE_URL to a Redis URL",
            extra={"queue": get_settings().sheets.queue},
        )


def _check_clickhouse() -> str:
    """Return why ClickHouse does not answer; an empty text if it does."""
    from ...actors.resources import clickhouse, clickhouse_schema
    from ...sinks.clickhouse import migrate

    settings = get_settings()
    url = settings.clickhouse.secret("url")
    try:
        client = clickhouse()
        client.ping()
        if is_embedded_clickhouse(url):
            # No other process can open it, so `formrelay migrate` cannot do this.
            migrate.apply(client, clickhouse_schema())
    except (SinkUnavailable, SinkBusy) as error:
        logger.warning(
            "sink unavailable", extra={"sink": "clickhouse", "error_message": str(error)}
        )
        return str(error)
    except SinkTransient as error:
        # It answered and rejected us, so starting is useless.
        raise ConfigError(str(error)) from None
    return ""


def become_workers(
    module: str,
    *others: str,
    queues: Sequence[str] | None = None,
    processes: int | None = None,
    threads: int | None = None,
    declare: Callable[[], object] = import_actors,
    import_from: Sequence[str] = (),
) -> NoReturn:
    """Check that workers can start, and replace this process with Dramatiq's.

    Args:
        module: the broker argument of ``dramatiq``.
        others: further modules that the workers import.
        queues: queues to consume; None consumes all.
        processes: number of processes; None uses WORKER_PROCESSES.
        threads: threads for each process; None uses WORKER_CONCURRENCY.
        declare: declares the same actors as the module.
        import_from: folders to put first on Python's path, in this order; empty uses the current
            folder.

    Raises:
        ConfigError: the configuration is wrong, or a queue does not exist.
        BrokerUnavailable, BrokerRefused: the broker cannot be used.
    """
    with stopped_before_start():
        processes, problems = check_start(queues, processes, declare)
        threads = threads or get_settings().worker_concurrency
        announce(queues, processes=processes, threads=threads, problems=problems)
    command = [sys.executable, "-m", f"{__package__}.dramatiq_command", module, *others]
    command += ["--processes", str(processes)]
    command += ["--threads", str(threads)]
    if queues:
        command += ["--queues", *queues]
    if import_from:
        # Dramatiq inserts each folder at the front of the path.
        command += ["--path", *reversed(import_from)]
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, and signals reach Dramatiq


def check_start(
    queues: Sequence[str] | None,
    processes: int | None = None,
    declare: Callable[[], object] = import_actors,
) -> tuple[int, dict[str, str]]:
    """Check that workers of ``queues`` (None: all queues) can start.

    Each worker process checks this too; checking here prints one error instead of several.

    Args:
        processes: number of processes; None uses WORKER_PROCESSES.

    Returns:
        The number of processes, and what :func:`check_sinks` returns.

    Raises:
        as :func:`become_workers`.
    """
    settings = settings_of_workers(queues)
    processes = processes or settings.worker_processes
    embedded = is_embedded_clickhouse(settings.clickhouse.secret("url"))
    if embedded and processes > 1 and (not queues or settings.events.queue in queues):
        raise ConfigError(
            f"expected one process for the queue {settings.events.queue!r} with an embedded "
            f"ClickHouse, got {processes}: only one process at a time can open chdb://"
        )
    if settings.worker_http.port is not None:
        WorkerFiles(settings.worker_http.folder)
    declare()
    check_queues(queues)
    get_broker().ping(queues or None)
    return processes, check_sinks(queues, clickhouse=not embedded)
