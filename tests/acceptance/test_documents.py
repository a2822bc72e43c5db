"""The examples of the documents run, their links work, their commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.command import clean_environment, run, run_python

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
#: Complete examples. Fragments are marked ``py`` in the documents.
PYTHON = [
    pytest.param(block, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(), re.S))
]


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON)
def test_a_python_example_runs(block: str, tmp_path: Path) -> None:
    done = run_python("-c", block, cwd=tmp_path, env=clean_environment(BROKER="embedded"))
    assert done.returncode == 0, done.stderr


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_work(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    here = [link for link in links if "://" not in link]
    assert [link for link in here if not (document.parent / link).exists()] == []


def test_every_command_that_a_document_names_exists(tmp_path: Path) -> None:
    help_text = run("--help", cwd=tmp_path, env={}).stdout
    for document in DOCUMENTS:
        shell = "".join(re.findall(r"```sh\n(.*?)```", document.read_text(), re.S))
        for command in re.findall(r"^formrelay (\w+)", shell, re.M):
            assert re.search(rf"\b{command}\b", help_text), f"{document.name}: formrelay {command}"
