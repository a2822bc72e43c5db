"""Where variables come from: the environment, and the ``.env`` file behind it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream

from ..core.errors import ConfigError

Origin = Literal["environment", ".env", "file", "default"]


@dataclass(frozen=True, slots=True)
class Given:
    """A variable that is set.

    Attributes:
        text: its value without line ends; it may be a secret.
    """

    name: str
    text: str = field(repr=False)
    origin: Origin


class Variables:
    """The environment and, behind it, a ``.env`` file. An empty variable is not set.

    Attributes:
        faults: lines about what is wrong with the file's lines.

    Raises:
        ConfigError: the file is there and cannot be read.
    """

    def __init__(self, environ: Mapping[str, str], env_file: Path | None) -> None:
        self.faults: list[str] = []
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

    def _places(self) -> Iterator[tuple[Mapping[str, str], Origin]]:
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


def _likeness(name: str, known: str) -> float:
    """1 and more: close enough to be a slip."""
    prefix, _, rest = known.partition("_")
    if rest and name.startswith(prefix + "_"):
        # A shared prefix makes long names look alike: the rest has to be close by itself.
        return SequenceMatcher(None, name.removeprefix(prefix + "_"), rest).ratio() / 0.62
    return SequenceMatcher(None, name, known).ratio() / 0.9
