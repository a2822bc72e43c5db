"""What every section of the settings is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from .parser import Parser
from .secrets import FilePath
from .variables import Given, Variables


class Missing(str):
    """A fault that nothing was said, where what was said is right."""

    __slots__ = ()


class Section(BaseSettings):
    """Settings that belong together: frozen, and free of secrets when printed.

    Made from keyword arguments it takes them and the defaults, and reads
    nothing; only ``Settings.load`` reads the environment.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        loc_by_alias=False,
        hide_input_in_errors=True,
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments alone: one place, ``Settings.load``, knows the other sources."""
        return (init_settings,)

    @classmethod
    def conflicts(cls, given: Mapping[str, Given]) -> Iterator[str]:
        """A line for each contradiction between variables, each fine by itself.

        Args:
            given: what is set, by field.
        """
        del given  # the sections that have contradictions look
        return iter(())

    def secret(self, name: str) -> str | None:
        """The secret of a field as it is now: one from a file is read again when that changes.

        Ask each time it is used instead of keeping it.
        """
        value: SecretStr | None = getattr(self, name)
        return None if value is None else value.get_secret_value()


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the environment and the field that it fills."""

    name: str
    field: str
    parser: Parser
    description: str
    default: object


@cache
def variables_of(section: type[BaseSettings]) -> dict[str, Variable]:
    """The variables of a section by field; fields that are sections themselves are left out.

    A name is the field's ``validation_alias``, or the section's prefix, the
    field's name and the unit of its type: EVENT_ + BATCH_WAIT + _MS.
    """
    found = {}
    for field, info in section.model_fields.items():
        if not isinstance(info.annotation, type) or not issubclass(info.annotation, BaseSettings):
            found[field] = _variable(section, field, info)
    return found


def _variable(section: type[BaseSettings], field: str, info: FieldInfo) -> Variable:
    parser = next(one for one in info.metadata if isinstance(one, Parser))
    prefix = section.model_config.get("env_prefix", "")
    return Variable(
        name=str(info.validation_alias or f"{prefix}{field.upper()}{parser.suffix}"),
        field=field,
        parser=parser,
        description=info.description or "",
        default=None if info.is_required() else info.get_default(call_default_factory=True),
    )


def _outranks(one: Given, other: Given) -> bool:
    """Whether one wins though both are set: what stands in FORMRELAY, over what does not."""
    return one.origin == "FORMRELAY" != other.origin


class VariablesSource(PydanticBaseSettingsSource):
    """The settings source behind ``Settings.load``: what is set, as text, by section and field.

    Attributes:
        given: what is set, by section and field, for errors and reports.
        faults: a line for each variable that is given twice.
    """

    def __init__(self, settings_cls: type[BaseSettings], variables: Variables) -> None:
        super().__init__(settings_cls)
        self.given: dict[str, Given] = {}
        self.faults: list[str] = []
        self._variables = variables
        self._known = variables_of(settings_cls)

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The text of a field's variable, a :class:`FilePath` for its file, or None."""
        variable = self._known[field_name]
        given = self._variables.get(variable.name)
        value: str | FilePath | None = given.text if given else None
        file = self._variables.get(variable.name + "_FILE") if variable.parser.secret else None
        if file and (given is None or not _outranks(given, file)):
            if given and not _outranks(file, given):
                self.faults.append(
                    f"expected one of {given.label} and {file.label} to be set,"
                    f" got both ({given.origin} and {file.origin}): drop one"
                )
            given = file
            value = FilePath(file.name, Path(file.text.strip()))
        if given:
            self.given[field_name] = given
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values of the fields that are set."""
        values = {
            name: self.get_field_value(self.settings_cls.model_fields[name], name)[0]
            for name in self._known
        }
        return {name: value for name, value in values.items() if value is not None}
