"""The wheel: its contents, and the package installed from it outside of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import checkout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, without isolation (no test needs the network)."""
    source = tmp_path_factory.mktemp("source")
    for path in checkout.files():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout.ROOT / path, target)
    built = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(built)], source)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    """Paths in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new virtual environment with the wheel.

    Its dependencies are those of the environment that runs the tests, added by a .pth file. The
    editable install of that environment has no effect: Python does not read .pth files of a folder
    that was added by a .pth file.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    _run([*pip, "--no-deps", "--no-index", str(wheel)], home)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_wheel_has_exactly_the_files_of_the_package(contents: set[str]) -> None:
    package = {name for name in contents if name.startswith("formrelay/")}
    expected = set(checkout.installed_files())
    assert {
        "missing from the wheel (package_data in setup.cfg?)": sorted(expected - package),
        "in the wheel, not in the checkout": sorted(package - expected),
    } == {
        "missing from the wheel (package_data in setup.cfg?)": [],
        "in the wheel, not in the checkout": [],
    }


def test_only_formrelay_is_installed_into_site_packages(contents: set[str]) -> None:
    top = {name.split("/")[0] for name in contents}
    (metadata,) = (name for name in top if name.endswith(".dist-info"))
    assert top == {"formrelay", metadata}


def test_licence_is_in_the_wheel(wheel: Path, contents: set[str]) -> None:
    (licence,) = (name for name in contents if name.endswith("/LICENSE"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(licence) == (checkout.ROOT / "LICENSE").read_bytes()


#: Imports each package in a process of its own. Large libraries are imported once.
_IMPORTS = """
import importlib, os, sys
import dramatiq, pydantic, redis, requests
for package in sys.argv[1:]:
    if not os.fork():
        print(package, importlib.import_module(package).__file__, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, package
"""


def test_each_package_can_be_imported_outside_of_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    packages = sorted(checkout.packages_on_disk())
    printed = _run([str(installed / "python"), "-c", _IMPORTS, *packages], tmp_path)
    found = dict(line.split(" ", 1) for line in printed.splitlines())
    assert sorted(found) == packages
    for file in found.values():
        assert Path(file).is_relative_to(installed.parent)


@pytest.mark.parametrize("command", [["python", "-m", "formrelay"], ["formrelay"]])
def test_the_commands_work_from_the_wheel(
    command: list[str], installed: Path, tmp_path: Path
) -> None:
    program, *arguments = command
    assert "Usage" in _run([str(installed / program), *arguments, "--help"], tmp_path)


def _run(argv: list[str], cwd: Path) -> str:
    # The actors need a broker's URL, but connect to it only when they are used.
    environment = {**os.environ, "BROKER": "redis", "REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
