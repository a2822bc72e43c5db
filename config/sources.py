"""Reads variables from a program's own settings, the environment and a ``.env`` file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Literal

from dotenv.parser import parse_stream

from ..core.errors import ConfigError
from .secrets import FilePath

Origin = Literal["FORMRELAY", "environment", ".env", "file", "default"]
#: From this ratio of difflib on, one name is probably a misspelling of the other.
_SIMILAR = 0.62


@dataclass(frozen=True, slots=True)
class Given:
    """A variable that is set.

    Attributes:
        text: its value without line ends; it may be a secret.
        origin: the source that it was found in.
        is_file: whether it is the ``NAME_FILE`` of a secret.
    """

    name: str
    text: str = field(repr=False)
    origin: Origin
    is_file: bool = False

    @property
    def label(self) -> str:
        """The name for errors, which tells where to look for the variable."""
        return f"FORMRELAY[{self.name!r}]" if self.origin == "FORMRELAY" else self.name

    def value(self, *, is_secret: bool) -> str | FilePath:
        """The text or the file for pydantic. A password may end with a space."""
        if self.is_file:
            return FilePath(self.name, Path(self.text.strip()))
        return self.text if is_secret else self.text.strip()


class Sources:
    """The environment and, behind it, a ``.env`` file. An empty variable is not set.

    Args:
        given: wins over both, by the variable's name: Django's setting FORMRELAY. A value is a
            text, a number, a boolean or a path; None is not set.

    Attributes:
        errors: a line for each error in the file and in ``given``.

    Raises:
        ConfigError: the file exists and cannot be read.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        env_file: Path | None,
        given: Mapping[str, object] | None = None,
    ) -> None:
        self.errors: list[str] = []
        self._given = dict(self._texts(given or {}))
        self._dotenv = self._read(env_file) if env_file is not None else {}
        self._mappings: tuple[tuple[Origin, Mapping[str, str]], ...] = (
            ("FORMRELAY", self._given),
            ("environment", environ),
            (".env", self._dotenv),
        )

    def get(self, name: str, *, is_secret: bool = False) -> Given | None:
        """Return the variable if it is set; for a secret also its ``NAME_FILE``.

        If a secret and its file are both set, the one in FORMRELAY wins; otherwise it is an error.
        """
        plain, file = self._find(name), self._find(name, "_FILE") if is_secret else None
        if plain is None or file is None:
            return plain or file
        if (plain.origin == "FORMRELAY") == (file.origin == "FORMRELAY"):
            where = " and ".join(dict.fromkeys((plain.origin, file.origin)))
            self.errors.append(
                f"expected one of {plain.label} and {file.label} to be set, got both ({where}): "
                "drop one"
            )
        return plain if plain.origin == "FORMRELAY" else file

    def _find(self, name: str, suffix: str = "") -> Given | None:
        for origin, mapping in self._mappings:
            # From `export X="$(cat file)\n"` and the like: a line end is never meant.
            text = mapping.get(name + suffix, "").strip("\r\n")
            if text.strip():
                return Given(name + suffix, text, origin, is_file=bool(suffix))
        return None

    def unknown(self, known: set[str]) -> Iterator[str]:
        """Return an error line for each key of FORMRELAY that is unknown."""
        for name in self._given:
            if name not in known:
                (nearest,) = get_close_matches(name.upper(), known, n=1, cutoff=0)
                yield (
                    f"expected the keys of FORMRELAY to be formrelay's variables, got {name!r}: "
                    f"the nearest is {nearest}"
                )

    def misspelled(self, known: set[str]) -> Iterator[str]:
        """Return a warning for each name in the file that is close to a known name.

        No error: a ``.env`` is often shared, and REDIS_URI may be another program's variable.
        The environment belongs to other programs too, and is not checked.
        """
        for name in self._dotenv:
            if name in known:
                continue
            if closest := _closest(name, known):
                yield (
                    f"{name} in the .env file is no variable of formrelay and is ignored: "
                    f"write {closest} if it is meant for formrelay"
                )

    def _texts(self, given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        for name, value in given.items():
            match value:
                case None:
                    yield str(name), ""
                case str() | int() | float() | Path():
                    yield str(name), str(value)
                case _:
                    self.errors.append(
                        f"expected FORMRELAY[{name!r}] to be a text, a number, True, False, a "
                        f"path or None, got {type(value).__name__}"
                    )

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
        values: dict[str, str] = {}
        # Not dotenv_values(): it skips lines that it cannot read, and replaces ${NAME} by the
        # value in os.environ.
        for binding in parse_stream(io.StringIO(text)):
            if binding.error:
                # The line is not quoted: it may hold a secret.
                self.errors.append(
                    f"expected NAME=value in line {binding.original.line} of '{path}',"
                    " got something else: check its quotes"
                )
            elif binding.key is not None:
                values[binding.key] = binding.value or ""
        return values


def _closest(name: str, known: set[str]) -> str | None:
    """The known name that ``name`` is probably a misspelling of."""
    name = name.upper()
    prefix = name.partition("_")[0] + "_"
    # A common prefix makes long names similar: the part after it must be close by itself.
    ends = [other.removeprefix(prefix) for other in known if other.startswith(prefix)]
    end = name.removeprefix(prefix)
    for close in get_close_matches(end, ends, cutoff=_SIMILAR):
        if _differ_in_spelling(end, close):
            return prefix + close
    others = [other for other in known if not other.startswith(prefix)]
    return next(iter(get_close_matches(name, others, n=1, cutoff=0.9)), None)


def _differ_in_spelling(name: str, other: str) -> bool:
    """Whether two names are similar without the words that they share.

    Shared words alone prove nothing: HOST_PASSWORD is another variable than IMAP_PASSWORD.
    """
    words, others = name.split("_"), other.split("_")
    own = "_".join(word for word in words if word not in others)
    its = "_".join(word for word in others if word not in words)
    return not own or not its or SequenceMatcher(None, own, its).ratio() >= _SIMILAR
