"""``formrelay doctor``: check the broker, the sinks and the shared state."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from ...actors import declare_actors
from ...brokers import get_broker
from ...config import get_settings
from ...core.errors import FormrelayError
from ..doctor.email import check_smtp
from ..doctor.encryption import check_encryption
from ..doctor.endpoints import check_endpoints
from ..doctor.finding import Finding
from ..doctor.monitoring import check_monitoring
from ..doctor.queues import check_dead_letters, check_queues, check_workers
from ..doctor.reports import check_reports
from ..doctor.servers import check_versions
from ..output import print_json, print_table
from ..probes import answers_within
from ..reachability import connect_to_api, is_embedded_clickhouse, reach
from ..worker import boot
from ..worker.time_limits import exceeding_time_limits
from .candidates import queue_names
from .options import JsonOption

#: Seconds for the checks that run at once.
_LIMIT = 10.0


def doctor(
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            "-q",
            help="Check only what a worker of this queue needs. Can be repeated.",
            autocompletion=queue_names,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for weak findings too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check the whole installation, and say what to do.

    `bad`: a worker does not start, jobs fail, or a server does not answer;
    the exit status is 1.
    `weak`: it works with a weaker guarantee, or needs attention.

    Example: formrelay doctor --strict
    """
    boot.settings_of_workers(queues)  # its error names everything that is missing
    declare_actors()
    found = _findings(queues)
    found += _run_all({"worker": lambda: _refusals(queues, found)})["worker"]
    if json:
        print_json([asdict(finding) for finding in found])
    else:
        rows = [(finding.what, finding.state, finding.says) for finding in found]
        print_table("Doctor", ["check", "state", "details"], rows, empty="")
    failing = ("bad", "weak") if strict else ("bad",)
    if any(finding.state in failing for finding in found):
        raise typer.Exit(boot.NOT_FINE)


def _findings(queues: list[str] | None) -> list[Finding]:
    """Run the checks at once; the checks of the broker only if it answers."""
    unused = _unused_sinks(queues)
    checks = {
        name: partial(check, queues) if name in _OF_QUEUES else check
        for name, check in _CHECKS
        if name not in unused
    }
    found = _run_all({name: checks[name] for name in checks.keys() - _NEED_BROKER})
    if not _has_bad(found["broker"]):  # or each would wait for the broker and say the same
        found |= _run_all({name: checks[name] for name in checks.keys() & _NEED_BROKER})
    told: set[str] = set()
    findings = []
    for name in checks:
        new = [finding for finding in found.get(name, ()) if finding.says not in told]
        told |= {finding.says for finding in new}
        findings += new
    return findings


def _run_all(checks: Mapping[str, Callable[[], Iterator[Finding]]]) -> dict[str, list[Finding]]:
    """Run checks in threads; a check without a result in time is a finding.

    Raises:
        Exception: the unexpected error of a check.
    """
    probes = {name: partial(_run, name, check) for name, check in checks.items()}
    late = f"no answer within {_LIMIT:g} s: check that the server runs and is not overloaded"
    found = {name: [Finding(name, "bad", late)] for name in checks}
    for name, answer in answers_within(_LIMIT, probes):
        if isinstance(answer, Exception):
            raise answer
        found[name] = answer
    return found


def _unused_sinks(queues: list[str] | None) -> set[str]:
    """Return the checks of sinks that are not configured and that no named queue needs."""
    if not queues:
        return set()
    settings, named = get_settings(), set(queues)
    forms = {settings.submissions.queue, settings.partials.queue}
    sinks = {
        "clickhouse": (settings.clickhouse.url is not None, {settings.events.queue}),
        "api": (settings.api.url is not None, forms),
        "smtp": (settings.smtp.url is not None, {settings.emails.queue}),
        "sheets": (settings.sheets.is_configured, {settings.sheets.queue}),
    }
    return {name for name, (is_set, users) in sinks.items() if not is_set and not users & named}


def _has_bad(found: Iterable[Finding]) -> bool:
    return any(each.state == "bad" for each in found)


def _run(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[list[Finding] | Exception]:
    """Run a check; an error of formrelay is a finding too."""
    found: list[Finding] = []
    try:
        found += check()
    except FormrelayError as error:
        found.append(Finding(name, "bad", str(error)))
    except Exception as error:
        yield error
        return
    yield found


def _refusals(queues: list[str] | None, found: list[Finding]) -> Iterator[Finding]:
    """Find why a worker would not start, unless another finding says so."""
    told = {finding.says for finding in found if finding.state == "bad"}
    try:
        if _has_bad(each for each in found if each.what == "broker"):
            boot.check_queues(queues)
            boot.check_sinks(queues, clickhouse=False)
        else:
            boot.check_start(queues)
    except FormrelayError as error:
        # For a team whose workers take other queues.
        todo = "" if queues else "; to check the queues of your workers: formrelay doctor --queue"
        for line in str(error).split("\n"):
            if line not in told:
                hint = todo if boot.OTHER_QUEUES in line else ""
                yield Finding("worker", "bad", f"a worker does not start: {line}{hint}")


def _broker() -> Iterator[Finding]:
    broker = get_broker()
    broker.ping()
    tried = broker.try_access()
    says = f"{get_settings().broker.kind} answers; jobs can be sent, fetched and settled"
    yield Finding("broker", "ok", says)
    for weakness in (*tried, *broker.weaknesses()):
        yield Finding("broker", "weak", weakness)


def _time_limits() -> Iterator[Finding]:
    for problem in exceeding_time_limits(get_broker()):
        yield Finding("time limits", "bad", problem)


def _old_keys() -> Iterator[Finding]:
    if importlib.util.find_spec("redis") is None:
        return
    from ..old_keys import find_old_keys

    if found := ", ".join(find_old_keys()):
        says = f"Redis holds keys of an older version that this namespace does not use: {found}"
        todo = "if they belong to this environment, run formrelay migrate --old-keys"
        yield Finding("old keys", "weak", f"{says}; {todo}")


def _clickhouse() -> Iterator[Finding]:
    from ...actors.resources import clickhouse, clickhouse_schema
    from ...sinks.clickhouse import MODERN, migrate

    url = get_settings().clickhouse.secret("url")
    if url is None:
        yield Finding(
            "clickhouse",
            "weak",
            "CLICKHOUSE_URL is not set: events cannot be recorded; set it to clickhouse://host:9000",
        )
        return
    client = clickhouse()
    client.ping()
    version = ".".join(map(str, client.version()))
    yield Finding("clickhouse", "ok", f"version {version} answers")
    missing = migrate.plan(client, clickhouse_schema())
    if missing and not is_embedded_clickhouse(url):
        yield Finding(
            "clickhouse", "bad", f"missing migrations ({', '.join(missing)}): run formrelay migrate"
        )
    for note in migrate.notes(client, clickhouse_schema()):
        yield Finding("clickhouse", "weak", note)
    if client.version() < MODERN:
        says = "this version has no deduplication token: count events in the view events_once"
        yield Finding("clickhouse", "weak", says)


def _api() -> Iterator[Finding]:
    from ...actors.resources import api

    section = get_settings().api
    if section.url is None:
        yield Finding(
            "api",
            "weak",
            "API_URL is not set: submissions cannot be saved; set it to https://your-django-site",
        )
        return
    api()
    if problem := reach({"api": partial(connect_to_api, get_settings())})["api"].problem:
        says = f"{section.url} cannot be reached ({problem}), and submissions wait"
        yield Finding("api", "bad", f"{says}; check API_URL, and that the API runs")
    else:
        yield Finding("api", "ok", f"{section.url} accepts connections (no request was sent)")
    if section.secret("token") is None:
        yield Finding(
            "api",
            "weak",
            "API_TOKEN is not set: requests are sent without a token; set it or API_TOKEN_FILE",
        )


def _sheets() -> Iterator[Finding]:
    settings = get_settings()
    if not settings.sheets.is_configured:
        says = "no Google account is configured: sheets are not updated, workers leave their queue"
        yield Finding("sheets", "weak", f"{says} alone; set SHEETS_SERVICE_ACCOUNT_FILE")
        return
    from ...actors.sheets.resources import sheet_resources

    connections = sheet_resources().connections
    if connections.account is not None:
        connections.account.mint()
        yield Finding("sheets", "ok", "Google accepts the service account")
    if get_broker().state is None:
        says = "rows may be written twice, and connections are kept in each process alone"
        yield Finding("sheets", "weak", f"{says}: set STATE_URL to a Redis URL")
    elif connections.tokens is not None:
        unreadable = connections.tokens.unreadable()
        for name in unreadable:
            says = f"no key of STATE_KEY decrypts the tokens of connection {name}"
            yield Finding("sheets", "bad", f"{says}: add that key, or let the person consent again")
        known = connections.tokens.connections()
        for each in known:
            if each.is_paused:
                todo = f"mend it, then run formrelay sheets connections resume {each.id}"
                says = f"connection {each.id} is paused: {each.cause}"
                yield Finding("sheets", "bad", f"{says}; {todo}")
        yield Finding("sheets", "ok", f"{len(known)} connections are stored")


#: Each check's name, and its function.
_CHECKS: tuple[tuple[str, Callable[..., Iterator[Finding]]], ...] = (
    ("broker", _broker),
    ("versions", check_versions),
    ("workers", check_workers),
    ("reports", check_reports),
    ("queues", check_queues),
    ("dead letters", check_dead_letters),
    ("time limits", _time_limits),
    ("old keys", _old_keys),
    ("clickhouse", _clickhouse),
    ("api", _api),
    ("smtp", check_smtp),
    ("sheets", _sheets),
    ("endpoints", check_endpoints),
    ("monitoring", check_monitoring),
    ("encryption", check_encryption),
)
#: Checks that take the names of queues; None: all queues.
_OF_QUEUES = {"queues", "dead letters"}
#: Checks that ask the broker.
_NEED_BROKER = {"versions", "workers", "reports", "queues", "dead letters", "encryption"}
