"""scripts/checks.py: steps that run in parallel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import checks
from scripts.checks import (
    NEWEST_IN_BRIEF,
    OLDEST_IN_BRIEF,
    OLDEST_TESTS,
    Step,
    run_shared,
    run_steps,
)
from scripts.venvs import ROOT
from tests.support.servers import PostfixServer


@pytest.mark.parametrize("statuses", [(0, 0), (1, 0), (0, 3)])
def test_parallel_steps_are_printed_last_and_count_for_the_exit_status(
    statuses: tuple[int, int], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    # The first step ends only after the second has started.
    first = f"until [ -e '{sign}' ]; do sleep 0.01; done; exit {statuses[0]}"
    second = f"touch '{sign}'; echo here; exit {statuses[1]}"
    result = run_steps(
        [Step("first", ["sh", "-c", first])], in_parallel=[Step("second", ["sh", "-c", second])]
    )
    assert result == int(statuses != (0, 0))
    output = capfd.readouterr().out
    assert output.index("== first") < output.index("== second (in parallel)\nhere\n")
    assert ("failed (3)" in output) == (statuses[1] == 3)


@pytest.mark.redis
def test_all_steps_share_a_server_that_ends_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORMRELAY_TEST_REDIS_URL", raising=False)
    note = f"echo $FORMRELAY_TEST_REDIS_PID $FORMRELAY_TEST_REDIS_URL >> '{tmp_path}/noted'"
    steps = [Step(name, ["sh", "-c", note]) for name in ("first", "second", "third")]
    assert run_steps(steps[:2], in_parallel=steps[2:], servers=["redis"]) == 0
    lines = (tmp_path / "noted").read_text().splitlines()
    assert len(lines) == 3
    (line,) = set(lines)
    pid, url = line.split()
    assert url.startswith("redis://")
    assert not Path(f"/proc/{pid}").exists()


def test_processes_share_the_tests_of_a_step_and_a_background_program(tmp_path: Path) -> None:
    note = f"while [ ! -e '{tmp_path}/begun' ]; do sleep 0.01; done; "
    note += f"echo \"$FORMRELAY_TEST_CLAIMS $*\" >> '{tmp_path}/noted'"
    tests = Step("tests", ["sh", "-c", note, "sh", "tests/a"])
    program = f"echo $$ > '{tmp_path}/pid'; mv '{tmp_path}/pid' '{tmp_path}/begun'; exec sleep 60"
    assert run_shared(tests, 3, background=[Step("program", ["sh", "-c", program])]) == 0
    assert not Path("/proc", (tmp_path / "begun").read_text().strip()).exists()
    lines = (tmp_path / "noted").read_text().splitlines()
    assert len(lines) == 3
    (line,) = set(lines)
    claims, *arguments = line.split()
    assert arguments == ["tests/a", "-o", "console_output_style=classic"]
    assert not Path(claims).exists()


@pytest.mark.parametrize("arguments", [NEWEST_IN_BRIEF, OLDEST_IN_BRIEF, OLDEST_TESTS])
def test_the_tests_of_other_versions_exist(arguments: list[str]) -> None:
    paths = [argument.removeprefix("--ignore=") for argument in arguments]
    assert [path for path in paths if path[:6] == "tests/" and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("has_another", [True, False])
def test_postfix_is_not_installed_beside_another_mail_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_another: bool,
) -> None:
    sendmail = tmp_path / "sendmail"
    monkeypatch.setattr(checks, "SENDMAIL", sendmail)
    monkeypatch.setattr(PostfixServer, "program", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # prints what it would install
    monkeypatch.setenv("PATH", str(tmp_path))
    if has_another:
        sendmail.touch()
    checks.prepare_servers()
    printed = capsys.readouterr().out
    assert ("postfix" in printed) == (not has_another)
    assert ("Postfix is not installed; its tests are skipped" in printed) == has_another
