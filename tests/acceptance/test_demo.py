"""The demo as users run it: success, failures, and no process left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from formrelay.core.errors import BrokerError
from formrelay.core.failure import Failure, Reason
from formrelay.ops.demo import services
from formrelay.ops.demo.count import Counts, count_autoresponses, numbers
from formrelay.ops.demo.errors import DemoFailed
from formrelay.ops.demo.mailbox import StoredEmail
from formrelay.ops.demo.report import DemoResult, Number
from formrelay.ops.demo.scenario import Sent
from formrelay.ops.demo.survey import BROKEN, FLAKY, STEADY, answers, per_form, read_rows
from tests.support.waiting import wait_until

#: Variable in the environment of all processes of a demo, by which the test finds them.
MARK = "FORMRELAY_TEST_DEMO"
DEMO = ["-m", "formrelay", "demo"]


@dataclass(frozen=True)
class Home:
    """A folder for a demo, and an environment whose settings the demo must ignore."""

    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            MARK: self.mark,
            "TMPDIR": str(self.folder),
            "BROKER": "rabbitmq",
            "REDIS_URL": "redis://nowhere.invalid:1",
            "RABBITMQ_URL": "amqp://nowhere.invalid:1",
            "API_TOKEN_FILE": "nowhere",
            "EVENT_QUEUE": "elsewhere",
            "http_proxy": "http://nowhere.invalid:1",
        }

    def left_running(self) -> list[str]:
        """Command lines of running processes that the demo has started."""
        return left_running(self.mark)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts background jobs with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


@dataclass(frozen=True)
class Finished:
    """Result of a demo that has ended."""

    home: Home
    status: int
    output: str
    errors: str


@pytest.fixture
def home() -> Iterator[Home]:
    # Not tmp_path: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="demo") as folder:
        yield Home(Path(folder))


@pytest.fixture(scope="module")
def finished() -> Iterator[dict[str, Finished]]:
    """Two complete demos, run in parallel to save time."""
    wrong = str(Path(__file__).with_name("demo_with_wrong_secret.py"))
    commands = {"right": [*DEMO, "--limit", "60", "--json"], "wrong": [wrong]}
    with tempfile.TemporaryDirectory(prefix="demo") as folder:
        homes = {name: Home(Path(folder) / name) for name in commands}
        running = {}
        for name, command in commands.items():
            homes[name].folder.mkdir()
            running[name] = homes[name].start(*command)
        result = {}
        for name, process in running.items():
            output, errors = process.communicate(timeout=120)
            result[name] = Finished(homes[name], process.returncode, output, errors)
        yield result


def left_running(mark: str) -> list[str]:
    """Command lines of running processes with the mark of a demo."""
    found = []
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or belongs to another user
    return found


def left_running_after(home: Home, seconds: float) -> list[str]:
    """Command lines of processes that still run after some seconds; returns early if none does."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not home.left_running(), timeout=seconds)
    return home.left_running()


def test_sixty_answers_arrive_once_and_no_process_stays_behind(
    finished: dict[str, Finished],
) -> None:
    done = finished["right"]

    assert (done.status, done.errors) == (0, "")
    result = json.loads(done.output)
    assert result["ok"] is True
    assert result["numbers"] == {
        "sent": 60,
        "saved": 60,
        "events_sent": 60 * 13,
        "rows": 60 * 13 + 40,
        "delivered": 50,
        "retried": 20,
        "emails_sent": 40,
        "emails": 40,
        "greylisted": 4,
        "emails_repeated": 0,
        "sheet_sent": 60,
        "sheet": 60,
        "sheet_repeated": 0,
        "dead_lettered": 10,
        "attempts": 30 + 20 * 3 + 10 * 4,
    }
    assert result["rows_by_type"] == {
        "form_viewed": 60,
        "field_answered": 60 * 11,
        "form_submitted": 60,
        "email.sent": 40,
    }
    failure = Failure.from_json(result["first_dead_letter"])
    assert (failure.reason, failure.code, failure.attempt) == (Reason.ATTEMPTS_EXHAUSTED, 500, 4)
    assert left_running_after(done.home, 2) == []
    assert list(done.home.folder.iterdir()) == []


def test_a_receiver_that_refuses_every_signature_makes_the_demo_fail(
    finished: dict[str, Finished],
) -> None:
    done = finished["wrong"]

    assert done.status == 1
    assert "\x1b" not in done.output, "no control characters without a terminal"
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "✓ Submissions saved once 1 read back from the API" in lines
    assert "✗ Webhooks delivered 0 expected 1" in lines
    assert "✓ E-mails accepted 1 TLS and login: aiosmtpd" in lines
    assert "✗ Dead-lettered 1 expected 0" in lines
    (kept,) = done.home.folder.iterdir()
    assert str(kept) in done.output, "the logs of a failed demo are kept"
    assert left_running_after(done.home, 2) == []


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--api-port", "--receiver-port"])
def test_a_port_in_use_is_one_clear_line(home: Home, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        demo = home.start(*DEMO, option, port)
        output, errors = demo.communicate(timeout=180)

    assert (demo.returncode, output) == (2, "")
    (line,) = errors.splitlines()
    assert port in line
    assert option in line
    assert left_running_after(home, 2) == []


@pytest.mark.slow
def test_three_ctrl_c_in_a_terminal_leave_nothing_running(home: Home) -> None:
    """They reach the demo three times; its children lead process groups of their own."""
    output = _in_terminal(home, interrupts=3)
    assert re.search(r"\b0/12272", output), "without --limit, it sends the whole survey"
    assert "stopped by Ctrl-C; nothing is left running" in output
    assert "Traceback" not in output
    assert home.left_running() == []
    assert list(home.folder.iterdir()) == []


@pytest.mark.slow
def test_progress_bars_count_from_0(home: Home) -> None:
    output = _in_terminal(home, "--limit", "30")
    assert re.search(r"\b0/390", output)
    assert "390/390" in output
    assert not re.search(r"-\d+/", output)


def test_a_broker_that_does_not_stop_is_not_said_to_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_SHUTDOWN_SECONDS", 0.1)
    (tmp_path / "valkey").mkdir()
    with (tmp_path / "valkey" / "keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(services, "get_broker", lambda: (_ for _ in ()).throw(BrokerError()))
        with pytest.raises(DemoFailed, match="still runs after"):
            services._shut_down(tmp_path)


def _in_terminal(home: Home, *options: str, interrupts: int = 0) -> str:
    """Run the demo in a terminal, type Ctrl-C during its progress bars, and return its output."""
    status = 128 + signal.SIGINT if interrupts else 0
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, *DEMO, *options], home.environ)
    output = b""
    with contextlib.suppress(OSError):  # how Linux reports that the terminal is closed
        while data := os.read(terminal, 65_536):
            output += data
            if interrupts and b"events recorded" in output:
                os.write(terminal, b"\x03")
                interrupts -= 1
                time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    return output.decode(errors="replace")


@pytest.mark.slow
def test_nothing_is_left_running_when_it_is_killed(home: Home) -> None:
    demo = home.start(*DEMO, "--limit", "60")
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("sending"):
            break
    assert len(home.left_running()) > 5
    demo.kill()
    demo.communicate(timeout=30)
    # After SIGKILL nothing ends the children: workers finish their jobs, and the embedded broker
    # waits for users for some seconds, as always.
    assert left_running_after(home, 20) == []


NUMBERS = [Number("sent", "Sent", 3, 3), Number("saved", "Saved", 3, 3)]


@pytest.mark.parametrize("actual", [2, 4, 0, None])
def test_one_wrong_number_makes_the_report_fail(actual: int | None) -> None:
    right = DemoResult(NUMBERS, seconds=1, by_type={})
    wrong = DemoResult([*NUMBERS, Number("rows", "Rows", 3, actual)], seconds=1, by_type={})

    assert (right.right, wrong.right) == (True, False)
    assert wrong.to_json()["numbers"]["rows"] == actual


def test_a_stopped_run_fails_even_with_correct_numbers() -> None:
    assert not DemoResult(NUMBERS, seconds=1, by_type={}, problem="nothing moves").right


def test_the_survey_has_944_answers_with_stable_ids() -> None:
    first, again = answers(read_rows()), answers(read_rows())

    assert first == again
    assert per_form(first) == {STEADY: 914, FLAKY: 20, BROKEN: 10}
    assert len({answer.id for answer in first}) == 944
    assert len({answer.address for answer in first if answer.address}) == 630
    events = [event["payload"] for answer in first for event in answer.events]
    assert len({event["eventId"] for event in events}) == len(events) == 944 * 13
    assert Counter(event["type"] for event in events) == {
        "form_viewed": 944,
        "field_answered": 944 * 11,
        "form_submitted": 944,
    }


def test_an_email_accepted_twice_or_for_nobody_is_a_wrong_number(tmp_path: Path) -> None:
    everything = answers(read_rows(4))  # three have an address
    first, second, third = [answer.address for answer in everything if answer.address]
    for number, recipient in enumerate((first, second, second, "mallory@else.example")):
        StoredEmail(recipient, recipient == second, b"Subject: x\r\n\r\nx\r\n").write(
            tmp_path, number
        )
    found = Counts()
    count_autoresponses(found, tmp_path, everything)
    assert (found.emails, found.repeated, found.greylisted) == (2, 1, 1)
    assert found.problems == ["1 e-mails were accepted for persons without an answer"]
    wrong = {each.key for each in numbers(found, Sent(), everything) if not each.right}
    assert {"emails", "emails_repeated"} <= wrong
    assert third is not None


@pytest.mark.parametrize("columns", [{}, {"a": "1"}, {"b": "2.5", "c": "yes"}])
def test_a_survey_may_have_any_columns(columns: dict[str, str]) -> None:
    (answer,) = answers([columns])

    assert list(answer.submission["payload"]["answers"]) == [*columns, "email"]
    assert len(answer.events) == len(columns) + 2
