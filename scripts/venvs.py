"""The virtual environments of scripts/test.

`.venv` has the newest dependencies, as have `.venv-3.12` and so on for other Pythons;
`.venv-oldest` has the oldest dependencies and the oldest Python.

uv installs the packages, in a tenth of pip's time; pip installs uv, and the packages if uv fails.
uv does not read pip's configuration, so its environment repeats pip's indexes and constraints.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from scripts.pythons import Python, find_pythons, running_python
from tests.support.servers import in_ci

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
OLDEST = ROOT / ".venv-oldest"
STAMP = "formrelay-installed"
#: pydantic 2.7 has no wheels for newer Pythons, and to build it takes Rust.
_TOO_NEW_FOR_OLDEST = (3, 13)
#: Dependencies that `.venv-oldest` has at their lower bounds in setup.cfg.
AT_THEIR_OLDEST = {"dramatiq", "redis", "pika", "pydantic"}
#: dramatiq-dashboard asks for dramatiq < 2 and redis < 5, but works with newer versions, so the
#: environments with the newest dependencies get it without its dependencies.
DASHBOARD = ["--no-deps", "dramatiq-dashboard==0.4.0"]
OLDEST_EXTRAS = (
    "redis,rabbitmq,clickhouse,embedded,demo,django,dkim,email,sheets,otel,sentry,"
    "dramatiq-dashboard"
)
OLDEST_TOOLS = [
    *("pytest>=8", "hypothesis>=6.100", "jsonschema[format-nongpl]>=4.18", "waitress>=3"),
    *("aiosmtpd>=1.4.6", "google-api-python-client>=2.100"),
    *("django-dramatiq>=0.13", "django-tasks>=0.12", "dramatiq-abort>=1.2"),
]
#: Option of pip, spelled as in its environment variables (`PIP_…`) -> variable of uv.
_UV_VARIABLES = {
    "index_url": "UV_DEFAULT_INDEX",
    "extra_index_url": "UV_INDEX",
    "find_links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted_host": "UV_INSECURE_HOST",
    "proxy": "ALL_PROXY",
    "default_timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "cert": "SSL_CERT_FILE",
}


def prepare_python() -> None:
    """Create `.venv` and install the package and its tools, unless this is up to date."""
    _prepare(VENV, running_python(), ["--editable", ".[dev]"], DASHBOARD)
    # mypy derives the package's name from its folder, and a checkout may have any name.
    link = VENV / "formrelay" / "formrelay"
    if not link.is_symlink():
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../..")


def prepare_oldest() -> bool:
    """Create `.venv-oldest`, unless it is up to date. Returns whether it exists."""
    python = next((one for one in find_pythons() if one.release < _TOO_NEW_FOR_OLDEST), None)
    if python is None:
        needed = "the oldest dependencies need Python 3.11 or 3.12 beside this one"
        if in_ci():
            stop(needed)
        say(f"{needed}; their tests are skipped")
        return False
    pins = oldest_pins((ROOT / "setup.cfg").read_text())
    package = ["--editable", f".[{OLDEST_EXTRAS}]"]
    _prepare(OLDEST, python, [*package, *pins, *OLDEST_TOOLS])
    return True


def other_pythons() -> list[Python]:
    """The Pythons of this machine besides that of `.venv`, oldest first."""
    return [python for python in find_pythons() if python.version != version_of(VENV)]


def prepare_other(python: Python) -> Path:
    """Create an environment with the newest dependencies, unless it is up to date.

    Returns:
        Its program.
    """
    venv = ROOT / f".venv-{python.version}"
    # tests/packaging installs a wheel with pip.
    _prepare(venv, python, ["--editable", ".[dev]", "pip"], DASHBOARD)
    return venv / "bin" / "python"


def oldest_pins(setup_cfg: str) -> list[str]:
    """Pins (`name==version`) to the lower bounds in setup.cfg of the tested dependencies."""
    bounds = re.findall(r"^\s+([\w-]+)>=([\d.]+)", setup_cfg, re.MULTILINE)
    pins = {name: f"{name}=={version}" for name, version in bounds if name in AT_THEIR_OLDEST}
    if pins.keys() != AT_THEIR_OLDEST:
        stop(f"setup.cfg gives no lower bound for {', '.join(AT_THEIR_OLDEST - pins.keys())}")
    return sorted(pins.values())


def version_of(venv: Path) -> str | None:
    """The version (`3.13`) of a virtual environment's Python; None if it does not exist."""
    try:
        config = (venv / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", config, re.MULTILINE)
    return found[1] if found else ""


def uv_environment(pip_config: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which uv uses pip's indexes and options.

    Args:
        pip_config: output of `pip config list`.
        environment: of this process; its `UV_…` variables take precedence.
    """
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip does: best version of all indexes
    # In this order each overrides the former: `global.proxy`, `install.proxy`, `:env:.proxy`.
    for line in sorted(pip_config.splitlines(), key=lambda line: (line.startswith(":"), line)):
        name, _, value = line.partition("=")
        if variable := _UV_VARIABLES.get(name.rpartition(".")[2].replace("-", "_")):
            separator = "," if variable == "UV_FIND_LINKS" else " "
            found[variable] = separator.join(ast.literal_eval(value).split())
    return {**found, **environment}


def _prepare(venv: Path, python: Python, *installs: Sequence[str]) -> None:
    """Create a virtual environment and install into it, unless it is up to date.

    Only `.venv`, which people also create themselves, keeps the Python that it has.

    Args:
        installs: arguments of each `pip install`, in order.
    """
    if venv != VENV and version_of(venv) not in (None, python.version):
        say(f"removing {venv.name}, which does not have Python {python.version}")
        shutil.rmtree(venv)
    if not (venv / "bin" / "python").exists():
        say(f"creating {venv.name}")
        # The pip of `.venv` installs into all of them.
        without_pip = [] if venv == VENV else ["--without-pip"]
        made = subprocess.run(
            [str(python.path), "-m", "venv", *without_pip, str(venv)], check=False
        )
        if made.returncode:
            shutil.rmtree(venv, ignore_errors=True)
            stop(f"could not create {venv.name} (on Debian: apt-get install python3-venv)")
    stamp = _fingerprint(installs)
    if (venv / STAMP).exists() and (venv / STAMP).read_text() == stamp:
        return
    say(f"installing formrelay and its test dependencies into {venv.name}")
    inside = str(venv / "bin" / "python")
    for install in installs:
        if not (_install_with_uv(inside, install) or _install_with_pip(inside, install)):
            stop("pip could not install the package; see its message above")
    (venv / STAMP).write_text(stamp)


def _install_with_uv(python: str, install: Sequence[str]) -> bool:
    uv = VENV / "bin" / "uv"
    if not uv.exists() and not _install_with_pip(PYTHON, ["uv"], stderr=subprocess.DEVNULL):
        return False
    config = subprocess.run(
        [PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    done = subprocess.run(
        [str(uv), "pip", "install", "--quiet", "--python", python, *install],
        env=uv_environment(config.stdout, os.environ),
        check=False,
    )
    if done.returncode:
        say("uv could not install the packages, see its message above; trying pip")
    return not done.returncode


def _install_with_pip(python: str, install: Sequence[str], *, stderr: int | None = None) -> bool:
    pip = [PYTHON, "-m", "pip", "--python", python, "install", "-qq", "--no-compile"]
    return not subprocess.run([*pip, *install], stderr=stderr, check=False).returncode


def _fingerprint(installs: Sequence[Sequence[str]]) -> str:
    """Hash of everything that decides the contents of a virtual environment."""
    files = b"".join((ROOT / name).read_bytes() for name in ("setup.cfg", "pyproject.toml"))
    arguments = "\n".join(argument for install in installs for argument in install)
    return hashlib.sha256(files + arguments.encode()).hexdigest()


def say(message: str) -> None:
    """Print a line that stands out from the output of other programs."""
    print(f"scripts/test: {message}", flush=True)


def stop(message: str) -> NoReturn:
    """Print an error and exit with status 2."""
    print(f"scripts/test: {message}", file=sys.stderr)
    raise SystemExit(2)
