"""The tree of settings, and the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from ..core.errors import ConfigError, NotConfigured
from .api import ApiSettings
from .broker import BrokerSettings, EmbeddedSettings, MissingBroker
from .clickhouse import ClickhouseSettings
from .expected import Expected
from .observability import LoggingSettings, MonitoringSettings
from .section import Section
from .sources import Given, Sources
from .types import Count, Unit, expectation, parts, split
from .webhooks import WebhookSettings
from .workers import (
    EmailSettings,
    EventSettings,
    PartialSettings,
    SheetsSettings,
    SubmissionSettings,
)


class Settings(Section):
    """All workers"""

    broker: BrokerSettings
    embedded: EmbeddedSettings = Field(default_factory=EmbeddedSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    clickhouse: ClickhouseSettings = Field(default_factory=ClickhouseSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    submissions: SubmissionSettings = Field(default_factory=SubmissionSettings)
    partials: PartialSettings = Field(default_factory=PartialSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    emails: EmailSettings = Field(default_factory=EmailSettings)
    sheets: SheetsSettings = Field(default_factory=SheetsSettings)
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    worker_concurrency: Count = Field(
        8, description="Number of threads in a process, for every worker without its own setting."
    )
    worker_processes: Count = Field(1, description="Number of worker processes.")

    @staticmethod
    def load(
        environ: Mapping[str, str] | None = None,
        env_file: Path | None = Path(".env"),
        given: Mapping[str, object] | None = None,
    ) -> Settings:
        """Read the settings from the environment and, behind it, a ``.env`` file.

        Args:
            environ: the environment; None is the environment of this process.
            env_file: the file; None reads none, and it need not exist.
            given: wins over both, by the variable's name (see :class:`.Sources`).

        Raises:
            NotConfigured: every variable is valid, but the broker is missing.
            ConfigError: one line for each invalid variable, without secrets.
        """
        reading = read_settings(environ, env_file, given)
        if reading.error is not None:
            raise reading.error
        return reading.settings

    def _with_embedded_clickhouse(self) -> Self:
        if self.broker.kind != "embedded" or self.clickhouse.url is not None:
            return self
        # Absolute: after chdb:// a relative folder would be read as a host.
        folder = self.embedded.data_dir.absolute() / "clickhouse"
        url = SecretStr(f"chdb://{quote(folder.as_posix())}")
        return self.model_copy(
            update={"clickhouse": self.clickhouse.model_copy(update={"url": url})}
        )


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment.

    Attributes:
        section: the group of its field; "" for a field of :class:`Settings` itself.
        expectation: what it takes, to follow "expected NAME to be".
        is_secret: whether its value is never shown, and may stand in a file (``NAME_FILE``).
    """

    name: str
    section: str
    field: str
    expectation: str
    description: str
    is_secret: bool

    def of(self, tree: Any) -> Any:
        """The mapping of fields in ``tree`` that has this variable's field."""
        return tree[self.section] if self.section else tree

    def line(self, given: Given, detail: ErrorDetails) -> str:
        """A readable line for an error of pydantic's."""
        error, text = detail.get("ctx", {}).get("error"), given.text
        if not isinstance(error, Expected):
            error = Expected(f"be {self.expectation}")
        index = next((part for part in detail["loc"] if isinstance(part, int)), None)
        text = text if index is None else split(text)[index]
        return error.line(given.label, raw=text, secret=self.is_secret and not given.is_file)


@cache
def sections() -> dict[str, type[Section]]:
    """The groups of settings by their field of :class:`Settings`; "" is :class:`Settings`."""
    kinds = {name: info.annotation for name, info in Settings.model_fields.items()}
    kinds[""] = Settings
    return {
        name: kind
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Section)
    }


@cache
def variables() -> dict[str, Variable]:
    """All variables by name, in the order of ``.env.example``.

    The name is the field's ``validation_alias``, or the group's prefix, the field's name and the
    suffix of its unit: EVENT_ + BATCH_WAIT + _MS.
    """
    found = {}
    for section, kind in sections().items():
        for field, info in kind.model_fields.items():
            plain, marks = parts(info.annotation, tuple(info.metadata))
            if not section and field in sections():
                continue
            suffix = next((mark.suffix for mark in marks if isinstance(mark, Unit)), "")
            name = str(info.validation_alias or f"{kind.prefix}{field.upper()}{suffix}")
            expected = expectation(plain, tuple(marks))
            is_secret = plain is SecretStr
            found[name] = Variable(
                name, section, field, expected, info.description or "", is_secret
            )
    return found


def known_names() -> set[str]:
    """The names of all variables, the files of secrets included."""
    return {
        name
        for one in variables().values()
        for name in ([one.name, f"{one.name}_FILE"] if one.is_secret else [one.name])
    }


@dataclass(frozen=True, slots=True)
class Reading:
    """What could be read of the settings, and what is wrong with them.

    Attributes:
        settings: invalid variables have their defaults.
        given: the variables that are set, by name.
        invalid: names of the variables without a valid value.
        error: what :meth:`Settings.load` raises; None if everything is valid.
    """

    settings: Settings
    given: Mapping[str, Given]
    invalid: frozenset[str]
    error: ConfigError | None


def read_settings(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = Path(".env"),
    given: Mapping[str, object] | None = None,
) -> Reading:
    """Read as much of the settings as is valid. The arguments are those of ``Settings.load``.

    Raises:
        ConfigError: the file exists and cannot be read.
    """
    sources = Sources(os.environ if environ is None else environ, env_file, given)
    found: dict[str, Given] = {}
    for name, variable in variables().items():
        if one := sources.get(name, is_secret=variable.is_secret):
            found[name] = one
    settings, wrong = _validated(found)
    errors = [*sources.errors, *filter(None, wrong.values())]
    for section in sections().values():
        errors += section.conflicts(found)
    errors += sources.unknown(known_names())
    if "BROKER" not in wrong:
        settings = settings._with_embedded_clickhouse()
    error = None
    if errors:
        is_missing = all(isinstance(line, MissingBroker) for line in errors)
        error = (NotConfigured if is_missing else ConfigError)("\n".join(errors))
    return Reading(settings, found, frozenset(wrong), error)


def _validated(found: Mapping[str, Given]) -> tuple[Settings, dict[str, str]]:
    """Return the settings without the invalid variables, and an error line for each of these.

    The line of a missing BROKER is empty: ``conflicts`` has one.
    """
    tree: dict[str, Any] = {name: {} for name in sections() if name}
    for name, given in found.items():
        one = variables()[name]
        one.of(tree)[one.field] = given.value(is_secret=one.is_secret)
    by_place = {(one.section, one.field): one for one in variables().values()}
    wrong: dict[str, str] = {}
    while True:
        try:
            return Settings(**tree), wrong
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        for detail in details:
            first, second = (*map(str, detail["loc"]), "")[:2]
            variable = by_place.get((first, second)) or by_place.get(("", first))
            if variable is None:  # an error of a whole group
                wrong[first] = detail["msg"].removeprefix("Value error, ")
                tree[first] = {}
            elif detail["type"] == "missing":  # BROKER, the only variable without a default
                wrong.setdefault(variable.name, "")
                variable.of(tree)[variable.field] = "embedded"
            else:
                wrong.setdefault(variable.name, variable.line(found[variable.name], detail))
                variable.of(tree).pop(variable.field, None)
