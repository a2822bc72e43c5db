"""The settings as people read them: a table of what is in force, and ``.env.example``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr

from .base import Section, Variable, variables_of
from .settings import Settings, sections
from .urls import mask
from .variables import Origin

_NOT_SET = "(not set)"

_HEAD = """\
# Everything formrelay reads from the environment, with its default. Copy this file
# to .env and uncomment what you change; the environment wins over .env, and an
# empty variable is not set. Every variable marked "secret" can be given as
# NAME_FILE=path instead, and is read again when that file changes.
#
# Made by scripts/generate-env-example from config/; do not edit.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One variable, ready to be shown.

    Attributes:
        value: in force, as the variable would be written; a secret is masked.
        source: where it came from: 'environment', '.env', 'file' or 'default'.
    """

    name: str
    value: str
    source: Origin
    description: str


def rows(settings: Settings) -> list[Row]:
    """What is in force, one row a variable, in the order of ``.env.example``."""
    return [
        Row(
            name=variable.name,
            value=_value(variable, getattr(section, variable.field)),
            source=settings.origin(variable.name),
            description=variable.description,
        )
        for section in _in_order(settings)
        for variable in variables_of(type(section)).values()
    ]


def env_example() -> str:
    """The text of ``.env.example``: every variable with its meaning, unit and default."""
    blocks = [_HEAD]
    for section in sections().values():
        title = (section.__doc__ or "").partition("\n")[0]
        blocks.append(f"# ---- {title} ".ljust(88, "-") + "\n")
        blocks += [_entry(variable) for variable in variables_of(section).values()]
    return "\n".join(blocks)


def _in_order(settings: Settings) -> Iterator[Section]:
    for name in sections():
        yield getattr(settings, name) if name else settings


def _value(variable: Variable, value: object) -> str:
    if value is None:
        return _NOT_SET
    if isinstance(value, SecretStr):
        # Only what is a URL by its type has parts that may be shown: a password
        # may look like one.
        return mask(value.get_secret_value()) if variable.field.endswith("url") else "***"
    return variable.parser.write(value) or _NOT_SET


def _entry(variable: Variable) -> str:
    marks = [variable.parser.unit] if variable.parser.unit else []
    if variable.parser.secret:
        marks.append("secret")
    text = variable.description + (f" [{'; '.join(marks)}]" if marks else "")
    comment = textwrap.fill(text, 86, initial_indent="# ", subsequent_indent="# ")
    default = "" if variable.default is None else variable.parser.write(variable.default)
    return f"{comment}\n#{variable.name}={default}\n"
