"""Programs in the fork server behave like programs in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import clean_environment, run_python
from tests.support.waiting import wait_until

REPORT = str(Path(__file__).with_name("reports_itself.py"))


@pytest.mark.parametrize("ending", ["return", "exit", "raise", "kill"])
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
    code = "import os, time\nprint(os.getpid(), file=open('pid', 'w'), flush=True)\ntime.sleep(60)"
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("-c", code, cwd=tmp_path, env=clean_environment(), timeout=1)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
