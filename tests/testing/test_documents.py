"""The code of docs/testing.md and docs/own-actors.md runs as a project of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.command import clean_environment


def write_project(document: str, folder: Path) -> None:
    """Write the files of a document: the blocks that begin with the name of a file."""
    text = (ROOT / "docs" / document).read_text()
    for block in re.findall(r"```(?:py|toml)\n(.*?)```", text, re.S):
        name = re.match(r"# (\S+\.(?:py|toml))\n", block)
        assert name, f"expected a file's name in the first line of {block!r}"
        file = folder / name[1]
        file.parent.mkdir(exist_ok=True)
        file.write_text(block)


def run_tests(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder, with no broker configured."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("document", "tests"), [("testing.md", 4), ("own-actors.md", 2)])
def test_the_tests_of_a_document_pass(document: str, tests: int, tmp_path: Path) -> None:
    write_project(document, tmp_path)
    done = run_tests(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
