"""Run formrelay's checks and tests, then print a summary.

    scripts/test                              everything, as CI does
    scripts/test --lint                       only the static checks
    scripts/test --quick                      static checks, and tests without servers and processes
    scripts/test --quick tests/core           only these tests, without servers and processes
    scripts/test tests/core -k name           only pytest, with these arguments and with servers
    scripts/test --oldest [tests/core …]      only the oldest dependencies, on the oldest Python
    scripts/test --python 3.13 [tests/core …] only another Python, with the newest dependencies
    scripts/test --range [tests/core …]       both, with every Python found (scripts/test-range)

Creates `.venv`, `.venv-oldest` and one for each other Python that it runs, and installs into them
again after a change of setup.cfg or pyproject.toml. As root on Debian, it also installs missing
packages of servers and Node. Elsewhere it prints what to install and skips the tests that need it;
with CI=true these tests fail. Servers run only while pytest runs, even if it is interrupted or
killed.

Exit status: 0 all checks passed, 1 a check failed, 2 the checks could not start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.pythons import SUPPORTED, find_pythons
from scripts.servers import start as start_servers
from scripts.venvs import (
    OLDEST,
    PYTHON,
    ROOT,
    VENV,
    other_pythons,
    prepare_oldest,
    prepare_other,
    prepare_python,
    say,
    stop,
    version_of,
)
from tests.support.servers import (
    ALL,
    Interrupted,
    PostfixServer,
    Run,
    ServerError,
    folders,
    in_ci,
    raise_on_signals,
)
from tests.support.servers.opensmtpd import UNPACKED as OPENSMTPD_FOLDER

_ON_THE_OLDEST = ["tests/middleware", "tests/actors", "tests/range", "tests/testing"]
_ACTORS_WITHOUT_PINS = [
    *("test_bad_answers", "test_bad_events", "test_client_certificates", "test_echoes"),
    *("test_endpoint_limiter", "test_endpoints", "test_fanout", "test_forms", "test_hosts"),
    *("test_partials", "emails/test_attachments", "emails/test_access_token"),
    *("emails/test_bad_days", "emails/test_deferring", "emails/test_render"),
    *("emails/test_report_handler", "emails/test_shares", "sheets/test_connections"),
    "sheets/test_quotas",
]
_CONTRACT_WITHOUT_PINS = [
    *("attempt_history", "causes", "dead_changes", "dead_letters", "draining", "encryption"),
    *("history", "message_edits", "metrics", "odd_ids", "saved_letters", "throttles"),
]
#: Fewer examples of Hypothesis, which seek bugs of formrelay and not of versions.
_FEW_EXAMPLES = "--hypothesis-profile=brief"
#: Tests on the oldest dependencies in a run of everything. The contract leaves out the embedded
#: broker, because it is a Redis, and the in-memory broker, which uses none of these dependencies
#: but Dramatiq (tests/testing has its tests). It also leaves out tests of the content of messages,
#: whose calls of Redis and RabbitMQ other tests make too. The tests of actors leave out tests that
#: seek bugs of formrelay and not of versions: HTTP, failures of the sinks, many messages at once,
#: and the content of e-mails and sheets. The tests with Django send and run jobs. The stores in
#: Redis are compared with the stores in memory.
OLDEST_IN_BRIEF = [
    *("tests/brokers/contract", *_ON_THE_OLDEST, "tests/config", "tests/state/test_agreement.py"),
    *(f"tests/djangoapp/test_{name}.py" for name in ("enqueue", "worker", "django_dramatiq")),
    *(f"--ignore=tests/actors/{name}.py" for name in _ACTORS_WITHOUT_PINS),
    *(f"--ignore=tests/brokers/contract/test_{name}.py" for name in _CONTRACT_WITHOUT_PINS),
    *("-m", "not embedded and not memory", _FEW_EXAMPLES),
]
#: Tests on the oldest dependencies in scripts/test-range.
OLDEST_TESTS = [
    *("tests/brokers", "tests/faults", "tests/sinks", "tests/djangoapp", *_ON_THE_OLDEST),
    *("tests/config", "tests/state"),
]
_SHEETS = ("cells", "columns", "many_rows", "once", "ranges", "refusals", "stand_in", "writing")
#: Tests on the newest Python in a run of everything, if `.venv` has another. Left out are tests of
#: what the sinks of Google and the API decide: their HTTP is in tests/sinks/http; and of files that
#: are not Python.
NEWEST_IN_BRIEF = [
    *("--quick", _FEW_EXAMPLES, "--ignore=tests/sinks/api"),
    *("--ignore=tests/acceptance/test_documents.py", "--ignore=tests/deploy"),
    *(f"--ignore=tests/sinks/sheets/test_{name}.py" for name in _SHEETS),
]
#: Number of pytest processes that share a run of everything, beside the run on the oldest
#: dependencies. With one more of each, a run took more CPU and no less time.
PROCESSES = 5
#: Servers that these processes and the run on the oldest dependencies share. The tests of RabbitMQ
#: have virtual hosts of their own, but the tests of Redis empty it. A ClickHouse starts in 0.1 s.
SHARED = ["rabbitmq"]
#: Programs besides servers, for examples/publishers and the tests with a browser -> Debian package.
PROGRAMS = {
    "node": "nodejs",
    "npm": "npm",
    "chromium": "chromium",
    # For the completion of commands:
    "zsh": "zsh",
    "fish": "fish",
    # For the units in deploy/systemd; needs no running systemd:
    "systemd-analyze": "systemd",
}
#: Of any mail server, in Debian.
SENDMAIL = Path("/usr/sbin/sendmail")
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Step:
    """A check: its name in the summary and its command."""

    name: str
    argv: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)


STATIC = [
    Step("ruff check", [PYTHON, "-m", "ruff", "check", "--output-format=concise"]),
    Step("ruff format", [PYTHON, "-m", "ruff", "format", "--check"]),
    Step("mypy", [PYTHON, "-m", "mypy"]),
    Step("lint-imports", [str(VENV / "bin" / "lint-imports"), "--no-logo"]),
]


def folder_in_memory() -> dict[str, str]:
    """The variable that has servers keep their data in memory; empty if memory is short."""
    if folders.VARIABLE in os.environ:  # set by the user, or by the scripts/test around this one
        return {}
    folder = folders.in_memory()
    if not folder:
        say("too little memory for the data of servers, which is on disk: slower")
    return {folders.VARIABLE: folder} if folder else {}


def pytest_step(arguments: Sequence[str]) -> Step:
    """pytest, with the servers running."""
    servers = [PYTHON, "scripts/servers.py", "run", "--"]
    return Step("pytest", [*servers, PYTHON, "-m", "pytest", *arguments])


def newest_python() -> str | None:
    """Say which Pythons were found; return the newest version unless `.venv` has it."""
    found = ", ".join(f"Python {python}" for python in find_pythons())
    say(f"found {found or 'no supported Python'}; .venv has Python {version_of(VENV)}")
    newest = find_pythons()[-1:]
    return newest[0].version if newest and newest[0] in other_pythons() else None


def run_shared(
    step: Step,
    processes: int,
    in_parallel: Sequence[Step] = (),
    servers: Sequence[str] = (),
    background: Sequence[Step] = (),
) -> int:
    """Run processes that share the tests of a step (tests/support/share.py)."""
    # Without percentages: a process does not know how many tests it will run.
    argv = [*step.argv, "-o", "console_output_style=classic"]
    with tempfile.TemporaryDirectory(prefix="formrelay-claims-") as claims:
        env = {**step.env, "FORMRELAY_TEST_CLAIMS": claims}
        first, *others = (
            Step(f"{step.name} {number} of {processes}", argv, env)
            for number in range(1, processes + 1)
        )
        return run_steps([first], [*others, *in_parallel], servers, background)


def step_with(python: Path, name: str, arguments: Sequence[str]) -> Step:
    """pytest in another environment than `.venv`, with the servers running."""
    servers = [] if "--quick" in arguments else [PYTHON, "scripts/servers.py", "run", "--"]
    return Step(name, [*servers, str(python), "-m", "pytest", *arguments])


def oldest_step(arguments: Sequence[str]) -> Step:
    """pytest on the oldest dependencies that setup.cfg allows."""
    return step_with(OLDEST / "bin" / "python", "oldest", arguments or OLDEST_TESTS)


def python_step(version: str, arguments: Sequence[str]) -> Step:
    """pytest on another Python of this machine, `3.13`, with the newest dependencies."""
    others = {python.version: python for python in other_pythons()}
    if version not in others:
        found = ", ".join(others) or "none"
        stop(f"expected --python with another Python of this machine than .venv's: {found}")
    return step_with(prepare_other(others[version]), f"Python {version}", arguments)


def run_range(arguments: Sequence[str]) -> int:
    """Run the oldest dependencies and every other Python; say what was run and what was not."""
    say("found " + ", ".join(f"Python {python} ({python.path})" for python in find_pythons()))
    others = [python.version for python in other_pythons()]
    ran, not_run = [], []
    steps = []
    if prepare_oldest():
        steps.append(oldest_step(arguments))
        ran.append(f"Python {version_of(OLDEST)} with the oldest dependencies")
    else:
        not_run.append("the oldest dependencies: no Python for them")
    for version in others:
        steps.append(python_step(version, arguments))
        ran.append(f"Python {version} with the newest dependencies")
    ours = version_of(VENV)
    not_run.append(f"Python {ours} with the newest dependencies, which scripts/test runs")
    missing = [version for version in SUPPORTED if version not in (ours, *others)]
    not_run += [f"Python {version}, which was not found" for version in missing]
    status = run_steps(steps[:1], in_parallel=steps[1:])
    for line in ran:
        say(f"ran {line}")
    for line in not_run:
        say(f"did not run {line}")
    return status


def main() -> int:
    """Parse the command line and run the checks; returns the exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    os.chdir(ROOT)
    # Tests start a thousand Python processes: without caches, each compiles all its imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    raise_on_signals()
    try:
        prepare_python()
        if arguments[:1] == ["--lint"]:
            if arguments[1:]:
                stop(f"--lint takes no further arguments, got {' '.join(arguments[1:])}")
            return run_steps(STATIC)
        if arguments[:1] == ["--quick"]:
            # Servers are not prepared, so this needs neither root nor Debian.
            quick = Step("quick tests", [PYTHON, "-m", "pytest", *arguments])
            return run_steps([quick]) if arguments[1:] else run_steps(STATIC, in_parallel=[quick])
        prepare_servers()
        os.environ |= folder_in_memory()
        if arguments[:1] == ["--oldest"]:
            return run_steps([oldest_step(arguments[1:])] if prepare_oldest() else [])
        if arguments[:1] == ["--python"]:
            return run_steps([python_step("".join(arguments[1:2]), arguments[2:])])
        if arguments[:1] == ["--range"]:
            return run_range(arguments[1:])
        if arguments:
            # While somebody works on a test, static checks would only delay the result.
            return run_steps([pytest_step(arguments)])
        # Processes of their own, so that nothing waits for the installation of their environments.
        beside = [Step("oldest", [sys.executable, __file__, "--oldest", *OLDEST_IN_BRIEF])]
        if newer := newest_python():
            command = [sys.executable, __file__, "--python", newer, *NEWEST_IN_BRIEF]
            beside.append(Step(f"Python {newer}", command))
        with tempfile.TemporaryDirectory(prefix="formrelay-forks-") as folder:
            # One for all processes: each takes 2.5 s of CPU to start.
            socket = f"{folder}/socket"
            forks = Step("fork server", [PYTHON, "tests/support/fork_server.py", socket])
            pytest = replace(pytest_step([]), env={"FORMRELAY_TEST_FORK_SERVER": socket})
            return run_shared(pytest, PROCESSES, [*STATIC, *beside], SHARED, [forks])
    except ServerError as error:
        stop(str(error))
    except Interrupted as interrupted:
        print(f"\nscripts/test: stopped by {interrupted}", file=sys.stderr)
        return 128 + interrupted.signum


def run_steps(
    steps: Sequence[Step],
    in_parallel: Sequence[Step] = (),
    servers: Sequence[str] = (),
    background: Sequence[Step] = (),
) -> int:
    """Run all steps even if a step fails, then print a summary.

    Args:
        steps: run one after the other.
        in_parallel: run at the same time with the steps; their output is printed afterwards.
        servers: kinds of servers that all steps share.
        background: programs that run until all steps have ended.

    Returns:
        0 if all steps passed, else 1.
    """
    results: list[tuple[str, int, float]] = []
    run = Run()
    try:
        for step in background:
            _begin(run, step, {})
        shared = start_servers(run, servers)
        start = time.monotonic()
        started = [(step, _begin(run, step, shared)) for step in in_parallel]
        for step in steps:
            print(f"\n== {step.name}", flush=True)
            begun = time.monotonic()
            try:
                status = run.command(step.argv, env={**shared, **step.env})
            except FileNotFoundError as error:
                print(f"{error.filename} is missing; remove .venv and run this again")
                status = 127
            results.append((step.name, status, time.monotonic() - begun))
        for step, process in started:
            print(f"\n== {step.name} (in parallel)", flush=True)
            status = process.wait()
            print(_output(run, step).read_text(errors="replace"), flush=True)
            results.append((step.name, status, time.monotonic() - start))
    finally:
        run.close()
    print("\n== summary")
    for name, status, seconds in results:
        verdict = "ok" if status == 0 else f"failed ({status})"
        print(f"{name:<14}{verdict:<14}{seconds:7.1f} s")
    return int(any(status for _, status, _ in results))


def _begin(run: Run, step: Step, env: dict[str, str]) -> subprocess.Popen[bytes]:
    return run.begin(step.argv, _output(run, step), env={**env, **step.env})


def _output(run: Run, step: Step) -> Path:
    return run.folder / step.name


def prepare_servers() -> None:
    """Install missing packages of servers and Node, or print the command that does."""
    wanted = [server for server in ALL if not server.program()]
    if PostfixServer in wanted and SENDMAIL.exists() and not shutil.which("postfix"):
        # apt-get would remove that server, or refuse to install anything.
        say("there is another mail server, so Postfix is not installed; its tests are skipped")
        wanted.remove(PostfixServer)
    missing = [name for server in wanted for name in server.package.split()]
    if "clickhouse-server" in missing:
        missing.append("clickhouse-client")
    missing += [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    if not missing:
        prepare_opensmtpd()
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    if os.geteuid() or not shutil.which("apt-get"):
        say(f"programs are missing; as root on Debian: {command}")
        say(f"tests that need them will {'fail' if in_ci() else 'be skipped'}")
        return
    say(f"apt-get update && {command}")
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with services_not_started():
        for step in (["update"], ["install", "--no-remove", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [*apt, *step],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                print(done.stdout)
                say(f"apt-get {step[0]} failed with status {done.returncode}")
    prepare_opensmtpd()


def prepare_opensmtpd() -> None:
    """Unpack OpenSMTPD beside the environments: Debian installs only one mail server."""
    target = OPENSMTPD_FOLDER
    if target.exists() or os.geteuid() or not shutil.which("apt-get"):
        return
    with tempfile.TemporaryDirectory(prefix="formrelay-debian-") as folder:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "opensmtpd"]
        done = subprocess.run(download, cwd=folder, capture_output=True, check=False)
        packages = [*map(str, Path(folder).glob("*.deb"))]
        if done.returncode or not packages:
            say("apt-get download opensmtpd failed; the tests that need it are skipped")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", packages[0], f"{folder}/unpacked"], check=True)
        shutil.move(f"{folder}/unpacked", target)


@contextlib.contextmanager
def services_not_started() -> Iterator[None]:
    """Keep Debian from starting services while it installs their packages.

    An existing policy-rc.d is a decision of the administrator and stays.
    """
    if POLICY.exists():
        yield
        return
    try:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
