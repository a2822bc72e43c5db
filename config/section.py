"""The base class of all groups of settings, and the variables of a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr

from .sources import Given
from .types import Unit, expectation, parts


class Section(BaseModel):
    """A group of settings: frozen, and without its secrets when printed.

    A field's description is the documentation of its variable. Made in code, a section has the
    values that it is given and defaults; only ``Settings.load`` reads the environment.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        loc_by_alias=False,
        hide_input_in_errors=True,
        regex_engine="python-re",
    )

    #: Start of the variables' names.
    prefix: ClassVar[str] = ""

    @classmethod
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """Return an error line for each contradiction between variables that are valid alone.

        Args:
            given: the variables that are set, by field.
        """
        del given  # most groups have no contradictions
        return iter(())

    def secret(self, name: str) -> str | None:
        """Return the current value of a secret field.

        Ask each time instead of keeping the value: a secret from a file is read again when the
        file changes.
        """
        value: SecretStr | None = getattr(self, name)
        return None if value is None else value.get_secret_value()


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment.

    Attributes:
        field: the field that it fills.
        expectation: what it takes, to follow "expected NAME to be".
        is_secret: whether its value is never shown, and may stand in a file (``NAME_FILE``).
    """

    name: str
    field: str
    expectation: str
    description: str
    is_secret: bool


@cache
def variables_of(section: type[Section]) -> dict[str, Variable]:
    """The variables of a group by field, without the fields that are groups themselves.

    The name is the field's ``validation_alias``, or the group's prefix, the field's name and the
    suffix of its unit: EVENT_ + BATCH_WAIT + _MS.
    """
    found = {}
    for field, info in section.model_fields.items():
        kind, metadata = parts(info.annotation, tuple(info.metadata))
        if isinstance(kind, type) and issubclass(kind, Section):
            continue
        suffix = next((mark.suffix for mark in metadata if isinstance(mark, Unit)), "")
        found[field] = Variable(
            name=str(info.validation_alias or f"{section.prefix}{field.upper()}{suffix}"),
            field=field,
            expectation=expectation(kind, tuple(metadata)),
            description=info.description or "",
            is_secret=kind is SecretStr,
        )
    return found
