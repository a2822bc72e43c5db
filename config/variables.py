"""Where variables come from: a program's own settings, the environment, a ``.env`` file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream

from ..core.errors import ConfigError

Origin = Literal["FORMRELAY", "environment", ".env", "file", "default"]


@dataclass(frozen=True, slots=True)
class Given:
    """A variable that is set.

    Attributes:
        text: its value without line ends; it may be a secret.
    """

    name: str
    text: str = field(repr=False)
    origin: Origin

    @property
    def label(self) -> str:
        """The name as errors have it, so that it is looked for in the right place."""
        return f"FORMRELAY[{self.name!r}]" if self.origin == "FORMRELAY" else self.name


class Variables:
    """The environment and, behind it, a ``.env`` file. An empty variable is not set.

    Args:
        given: what wins over both, by the variable's name: Django's setting FORMRELAY. A text,
            a number, True or False, a path; None is not set.

    Attributes:
        faults: lines about what is wrong with the file's lines and with what was given.

    Raises:
        ConfigError: the file is there and cannot be read.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        env_file: Path | None,
        given: Mapping[str, object] | None = None,
    ) -> None:
        self.faults: list[str] = []
        self._given = dict(self._texts(given or {}))
        self._environ = environ
        self._dotenv = self._read(env_file) if env_file is not None else {}

    def get(self, name: str) -> Given | None:
        """The variable if it is set, in the environment or else in the file."""
        for values, origin in self._places():
            # `export X="$(cat file)\n"` and the like: a line end is never meant.
            text = values.get(name, "").strip("\r\n")
            if text.strip():
                return Given(name, text, origin)
        return None

    def misspelt(self, known: Iterable[str]) -> Iterator[str]:
        """A line for each name in the file that looks like a known one and is not.

        Only the file is looked at, and only what is close to one of ours: the
        process environment belongs to others too, and a ``.env`` is often
        shared with Django, whose EMAIL_HOST or REDIS_HOST are no slips.
        """
        names = set(known)
        for name in self._dotenv:
            if name not in names and (closest := _closest(name, names)):
                yield f"expected a known variable in the .env file, got {name}: write {closest}"

    def unknown(self, known: Iterable[str]) -> Iterator[str]:
        """A line for each name that was given and is none of ours: all there are meant for us."""
        names = set(known)
        for name in self._given:
            if name not in names:
                nearest = max(names, key=lambda one: _nearness(name.upper(), one))
                yield (
                    f"expected the keys of FORMRELAY to be formrelay's variables, got {name!r}: "
                    f"the nearest is {nearest}"
                )

    def _texts(self, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        for name, value in given.items():
            match value:
                case None:
                    yield str(name), ""
                case bool():
                    yield str(name), "true" if value else "false"
                case str() | int() | float() | Path():
                    yield str(name), str(value)
                case _:
                    self.faults.append(
                        f"expected FORMRELAY[{name!r}] to be a text, a number, True, False, a "
                        f"path or None, got {type(value).__name__}"
                    )

    def _places(self) -> Iterator[tuple[Mapping[str, str], Origin]]:
        yield self._given, "FORMRELAY"
        yield self._environ, "environment"
        yield self._dotenv, ".env"

    def _read(self, path: Path) -> dict[str, str]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return {}
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ConfigError(
                f"expected '{path}' to be a readable file of NAME=value lines, got: {why}"
            ) from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigError(
                f"expected '{path}' to be UTF-8 text, got other bytes in line {line}:"
                " save it as UTF-8"
            ) from None
        return self._parse(text, path)

    def _parse(self, text: str, path: Path) -> dict[str, str]:
        values: dict[str, str] = {}
        # dotenv_values() would log and skip what it cannot read, and would fill
        # in ${NAME} from os.environ, which may not be the environment given.
        for binding in parse_stream(io.StringIO(text)):
            if binding.error:
                # The line itself is not quoted: it may hold a secret.
                self.faults.append(
                    f"expected NAME=value in line {binding.original.line} of '{path}',"
                    " got something else: check its quotes"
                )
            elif binding.key is not None:
                values[binding.key] = binding.value or ""
        return values


def _closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be."""
    score, closest = max((_likeness(name.upper(), one), one) for one in known)
    return closest if score >= 1 else None


def _nearness(name: str, known: str) -> float:
    return SequenceMatcher(None, name, known).ratio()


def _likeness(name: str, known: str) -> float:
    """1 and more: close enough to be a slip."""
    prefix, _, rest = known.partition("_")
    if rest and name.startswith(prefix + "_"):
        # A shared prefix makes long names look alike: the rest has to be close by itself.
        return _nearness(name.removeprefix(prefix + "_"), rest) / 0.62
    return _nearness(name, known) / 0.9
