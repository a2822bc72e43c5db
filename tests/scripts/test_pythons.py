"""scripts/pythons.py finds the supported Pythons; scripts/test-range says what it ran."""

from __future__ import annotations

import configparser
import json
import sys
from pathlib import Path

import pytest

from scripts import checks
from scripts.pythons import SUPPORTED, Python, describe, pythons_in, running_python

ROOT = Path(__file__).resolve().parent.parent.parent
RUNNING = running_python()
#: A supported version that is not that of this process.
OTHER = next(version for version in SUPPORTED if version != RUNNING.version)


def install(folder: Path, release: str, level: str = "final", flags: str = "") -> Path:
    """A program that describes itself as a release of Python."""
    numbers = [int(part) for part in release.split(".")]
    program = folder / "python{}.{}".format(*numbers)
    folder.mkdir(parents=True, exist_ok=True)
    described = json.dumps([*numbers, level, flags, str(program)])
    program.write_text(f"#!/bin/sh\necho '{described}'\n")
    program.chmod(0o755)
    return program


def others(**environment: object) -> list[Python]:
    found = pythons_in({name: str(value) for name, value in environment.items()})
    return [python for python in found if python != RUNNING]


def test_the_classifiers_are_the_supported_versions() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    start = "Programming Language :: Python :: 3."
    lines = config["metadata"]["classifiers"].splitlines()
    classified = [line.rpartition(" ")[2] for line in lines if line.startswith(start)]
    assert classified == list(SUPPORTED)
    assert config["options"]["python_requires"] == f">={SUPPORTED[0]}"


def test_the_readme_names_the_supported_versions() -> None:
    named = f"{', '.join(SUPPORTED[:-1])} and {SUPPORTED[-1]}"
    assert f"Tested on Python {named}" in (ROOT / "README.md").read_text()


def test_a_real_python_is_described() -> None:
    assert describe(Path(sys.executable), RUNNING.version) == RUNNING
    assert describe(Path(sys.executable), "3.10") is None


def test_the_running_python_is_found_with_an_empty_path() -> None:
    assert pythons_in({"PATH": "", "HOME": "/nowhere"}) == [RUNNING]


@pytest.mark.parametrize(
    ("variable", "folder", "bin_folder"),
    [
        ("PATH", "bin", "bin"),
        ("PYENV_ROOT", "pyenv", f"pyenv/versions/{OTHER}.4/bin"),
        ("HOME", "", f".pyenv/versions/{OTHER}.4/bin"),
        ("UV_PYTHON_INSTALL_DIR", "uv", f"uv/cpython-{OTHER}.4-linux-x86_64-gnu/bin"),
        ("HOME", "", f".local/share/uv/python/cpython-{OTHER}.4-linux-x86_64-gnu/bin"),
        ("XDG_DATA_HOME", "data", f"data/uv/python/cpython-{OTHER}.4-linux-x86_64-gnu/bin"),
    ],
)
def test_pythons_are_found_on_path_and_where_pyenv_and_uv_install_them(
    variable: str, folder: str, bin_folder: str, tmp_path: Path
) -> None:
    program = install(tmp_path / bin_folder, f"{OTHER}.4")
    (found,) = others(**{variable: tmp_path / folder})
    assert (str(found), found.version, found.path) == (f"{OTHER}.4", OTHER, program)


def test_the_newest_patch_release_is_taken(tmp_path: Path) -> None:
    install(tmp_path / "bin", f"{OTHER}.9")
    for patch in (2, 10):
        install(tmp_path / f"pyenv/versions/{OTHER}.{patch}/bin", f"{OTHER}.{patch}")
    found = others(PATH=tmp_path / "bin", PYENV_ROOT=tmp_path / "pyenv")
    assert [str(python) for python in found] == [f"{OTHER}.10"]


def test_a_command_of_pyenv_whose_version_is_not_activated_is_passed_over(tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    install(shims, f"{OTHER}.1").write_text("#!/bin/sh\nexit 127\n")
    assert others(PATH=shims) == []
    installed = install(tmp_path / f"versions/{OTHER}.1/bin", f"{OTHER}.1")
    assert [python.path for python in others(PATH=shims, PYENV_ROOT=tmp_path)] == [installed]


@pytest.mark.parametrize(("level", "flags"), [("candidate", ""), ("final", "t")])
def test_prereleases_and_free_threaded_builds_are_passed_over(
    level: str, flags: str, tmp_path: Path
) -> None:
    install(tmp_path, f"{OTHER}.0", level, flags)
    assert others(PATH=tmp_path) == []


@pytest.mark.process
def test_the_range_says_what_it_found_ran_and_did_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(sys.executable)
    other = Python((3, 12, 4), here)
    monkeypatch.setattr(checks, "find_pythons", lambda: [Python((3, 11, 2), here), other])
    monkeypatch.setattr(checks, "other_pythons", lambda: [other])
    monkeypatch.setattr(checks, "version_of", lambda venv: "3.11")
    monkeypatch.setattr(checks, "prepare_oldest", lambda: True)
    monkeypatch.setattr(checks, "prepare_other", lambda python: here)
    monkeypatch.setattr(checks, "OLDEST", here.parent.parent)
    assert checks.run_range(["--quick", "--version"]) == 0
    lines = capsys.readouterr().out.replace("scripts/test: ", "").splitlines()
    assert lines[0] == f"found Python 3.11.2 ({here}), Python 3.12.4 ({here})"
    assert lines[-4:] == [
        "ran Python 3.11 with the oldest dependencies",
        "ran Python 3.12 with the newest dependencies",
        "did not run Python 3.11 with the newest dependencies, which scripts/test runs",
        "did not run Python 3.13, which was not found",
    ]


def test_a_python_that_was_not_found_is_an_error_that_names_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "other_pythons", lambda: [Python((3, 12, 4), Path("python"))])
    with pytest.raises(SystemExit):
        checks.python_step("3.9", [])
    assert capsys.readouterr().err == (
        "scripts/test: expected --python with another Python of this machine than .venv's: 3.12\n"
    )
