"""Programs in the fork server behave like programs in a new process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environment, run_python, start_python
from tests.support.waiting import wait_until

REPORT = str(Path(__file__).with_name("reports_itself.py"))


@pytest.mark.parametrize("ending", ["return", "exit", "text", "raise", "interrupt", "kill"])
def test_a_forked_program_prints_and_exits_as_in_a_new_process(tmp_path: Path, ending: str) -> None:
    env = clean_environment(A="é", TZ="Asia/Tokyo", PYTHONPATH=str(tmp_path))
    arguments = (REPORT, ending, "two words")
    plain = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=env,
        input="ü\n",
        capture_output=True,
        text=True,
        check=False,
    )
    forked = run_python(*arguments, cwd=tmp_path, env=env, stdin="ü\n")
    assert (forked.returncode, forked.stdout) == (plain.returncode, plain.stdout)
    assert forked.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_modules_and_code_can_be_run(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("import sys; print(__name__, sys.argv[1:])")
    env = clean_environment()
    assert run_python("-m", "other", "a", cwd=tmp_path, env=env).stdout == "__main__ ['a']\n"
    code = "import other, sys; print(sys.argv)"
    assert run_python("-c", code, "b", cwd=tmp_path, env=env).stdout == "other ['b']\n['-c', 'b']\n"


def test_a_program_is_killed_after_the_timeout(tmp_path: Path) -> None:
    code = "import os, signal\nopen('pid', 'w').write(str(os.getpid()))\nsignal.pause()"
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", code, cwd=tmp_path, env=clean_environment(), timeout=1)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


REPLACED = """
import os, sys
assert sys.modules.get("json.tool") is None, "nothing of the first program is left"
print(os.getpid(), os.environ["WORD"], sys.argv, flush=True)
"""
REPLACING = """
import json.tool, os, sys
os.environ["WORD"] = "new"
os.execv(sys.executable, [sys.executable, "replaced.py", "two words"])
"""


def test_a_program_that_replaces_itself_keeps_its_process_id(tmp_path: Path) -> None:
    (tmp_path / "replaced.py").write_text(REPLACED)
    log = tmp_path / "log"
    program = start_python(
        "-c", REPLACING, cwd=tmp_path, env=clean_environment(), log=log, may_exec=True
    )
    assert program.wait(60) == 0, log.read_text()
    assert log.read_text() == f"{program.pid} new ['replaced.py', 'two words']\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_a_program_that_may_replace_itself(tmp_path: Path, signum: int) -> None:
    code = "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()"
    log = tmp_path / "log"
    program = start_python(
        "-c", code, cwd=tmp_path, env=clean_environment(), log=log, may_exec=True
    )
    pid = int(wait_until(log.read_text))
    assert program.poll() is None
    program.send_signal(signum)
    assert program.wait(60) == -signum
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_program_that_may_replace_itself_and_ends_by_a_signal_has_its_status(
    tmp_path: Path,
) -> None:
    code = "import os\nos.kill(os.getpid(), 9)"
    options = {"cwd": tmp_path, "env": clean_environment(), "log": tmp_path / "log"}
    for may_exec in (True, False):
        program = start_python("-c", code, may_exec=may_exec, **options)
        assert program.wait(60) == -signal.SIGKILL
