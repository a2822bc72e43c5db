"""What one variable of the environment takes: the parser, and the error it raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Expected(ValueError):
    """A text is not what a variable takes.

    Attributes:
        what: what was expected, to follow "expected NAME to".
        got: what came, where the text itself must not or need not be shown.
        advice: what to do about it.
        inside: the fault is in the file that the variable names.
    """

    def __init__(
        self, what: str, *, got: str | None = None, advice: str = "", inside: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.got = got
        self.advice = advice
        self.inside = inside

    def line(self, name: str, *, raw: str, secret: bool) -> str:
        """The readable line: what was expected, what came, what to do.

        Args:
            name: the variable at fault.
            raw: its text; not shown when it is ``secret``.
        """
        subject = f"the content of {name} ({shown(raw)})" if self.inside else name
        got = self.got or ("a value that is not shown" if secret or self.inside else shown(raw))
        advice = f": {self.advice}" if self.advice else ""
        return f"expected {subject} to {self.what}, got {got}{advice}"


def shown(text: str, most: int = 80) -> str:
    """A text as it is quoted in an error: on one line, and never a screenful."""
    return repr(text if len(text) <= most else text[:most] + "…")


@dataclass(frozen=True)
class Parser:
    """How a variable's text becomes a value, and back: the metadata of an ``Annotated`` type.

    Attributes:
        read: text, stripped and not empty, to value; raises :class:`Expected`.
        write: value to the text that ``read`` takes.
        unit: of the text, for people.
        suffix: what the unit adds to the variable's name.
        secret: whether the value is hidden wherever values are shown.
    """

    read: Callable[[str], Any]
    write: Callable[[Any], str] = str
    unit: str = ""
    suffix: str = ""
    secret: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._from_text, handler(source))

    def _from_text(self, value: object) -> object:
        # Python code (tests, other sections) may pass the value itself.
        return self.read(value.strip()) if isinstance(value, str) else value


def optional(parser: Parser) -> Parser:
    """The same, for a value that may be missing."""
    return replace(parser, write=lambda value: "" if value is None else parser.write(value))
