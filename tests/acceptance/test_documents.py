"""The examples of the documents run, their links work, their commands exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.main import get_command

from formrelay.ops.cli.app import app
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


def _anchors(document: Path) -> set[str]:
    """The anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_work(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text())
    broken = [
        f"{name}#{anchor}"
        for name, anchor in links
        if not name or name.endswith(".md")
        if anchor not in _anchors(document.parent / name if name else document)
    ]
    assert broken == []


JOBS = [
    pytest.param(block, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"```json\n(.*?)```", document.read_text(), re.S))
    if '"type"' in block and '"payload"' in block
]


@pytest.mark.parametrize("block", JOBS)
def test_a_job_in_json_fits_its_schema(block: str, tmp_path: Path) -> None:
    job = json.loads(block)
    schema = json.loads(run("schema", job["type"], cwd=tmp_path, env={}).stdout)
    jsonschema.validate(job, schema)


def _commands(document: Path) -> Iterator[list[str]]:
    """The words after ``formrelay`` of each command line in a document."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", document.read_text(), re.S)
    for line in "".join(blocks).splitlines():
        found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S* )*formrelay (.*)", line)
        if found:
            yield re.split(r"\s[|<>]|\s#|;|&&", found[1])[0].split()


def test_every_option_that_a_document_names_exists() -> None:
    """The commands themselves are not run: they need servers, or change something."""
    every = get_command(app)
    for document in DOCUMENTS:
        for words in _commands(document):
            command: Any = every
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            known = {option for each in command.params for option in each.opts} | {"--help"}
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= known, f"{document.name}: {command.name} {words}"


def test_every_command_that_a_document_names_exists(tmp_path: Path) -> None:
    help_text = run("--help", cwd=tmp_path, env={}).stdout
    for document in DOCUMENTS:
        shell = "".join(re.findall(r"```sh\n(.*?)```", document.read_text(), re.S))
        for command in re.findall(r"^formrelay (\w+)", shell, re.M):
            assert re.search(rf"\b{command}\b", help_text), f"{document.name}: formrelay {command}"
