"""The tree of settings, and the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from .secrets import FilePath
from .section import Section, Variable, variables_of
from .sources import Given, Sources
from .types import Count, split
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
class Reading:
    """What could be read of the settings, and what is wrong with them.

    Attributes:
        settings: invalid variables have their defaults.
        given: the variables that are set, by group and field.
        invalid: names of the variables without a valid value.
        error: what :meth:`Settings.load` raises; None if everything is valid.
    """

    settings: Settings
    given: Mapping[str, Mapping[str, Given]]
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
    found = {name: dict(_given(sources, section)) for name, section in sections().items()}
    settings, wrong = _validated(found)
    errors = [*sources.errors, *filter(None, wrong.values())]
    for name, section in sections().items():
        errors += section.conflicts(found[name])
    errors += sources.unknown(known_names())
    if "BROKER" not in wrong:
        settings = settings._with_embedded_clickhouse()
    error = None
    if errors:
        is_missing = all(isinstance(line, MissingBroker) for line in errors)
        error = (NotConfigured if is_missing else ConfigError)("\n".join(errors))
    return Reading(settings, found, frozenset(wrong), error)


def sections() -> dict[str, type[Section]]:
    """The groups of settings by their field of :class:`Settings`; "" is the top of the tree."""
    found: dict[str, type[Section]] = {}
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = info.annotation
    return found | {"": Settings}


def known_names() -> set[str]:
    """The names of all variables, the files of secrets included."""
    names: set[str] = set()
    for section in sections().values():
        for variable in variables_of(section).values():
            names.add(variable.name)
            if variable.is_secret:
                names.add(f"{variable.name}_FILE")
    return names


def _given(sources: Sources, section: type[Section]) -> Iterator[tuple[str, Given]]:
    for field, variable in variables_of(section).items():
        if given := sources.get(variable.name, is_secret=variable.is_secret):
            yield field, given


def _validated(
    found: Mapping[str, Mapping[str, Given]],
) -> tuple[Settings, dict[str, str | None]]:
    """Return the settings without the invalid variables, and an error line for each of these.

    A missing BROKER is invalid too, without a line: ``conflicts`` has one.
    """
    tree: dict[str, Any] = {
        name: _values(section, found[name]) for name, section in sections().items()
    }
    tree |= tree.pop("")
    wrong: dict[str, str | None] = {}
    while True:
        try:
            return Settings(**tree), wrong
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        for detail in details:
            *section, field = (str(part) for part in detail["loc"][:2])
            name = section[0] if section else ""
            values = tree[name] if name else tree
            variable = variables_of(sections()[name]).get(field)
            if variable and detail["type"] == "missing":
                values[field] = "embedded"  # BROKER, the only variable without a default
                wrong.setdefault(variable.name, None)
            elif variable:
                wrong.setdefault(variable.name, _line(detail, variable, found[name][field]))
                values.pop(field, None)
            else:
                wrong[f"{field} settings"] = detail["msg"].removeprefix("Value error, ")
                values.pop(field, None)


def _values(section: type[Section], given: Mapping[str, Given]) -> dict[str, object]:
    """What pydantic gets: the text of each variable that is set, or the file of a secret."""
    values: dict[str, object] = {}
    for field, one in given.items():
        variable = variables_of(section)[field]
        if one.name != variable.name:
            values[field] = FilePath(one.name, Path(one.text.strip()))
        else:
            # A password may end with a space.
            values[field] = one.text if variable.is_secret else one.text.strip()
    return values


def _line(detail: ErrorDetails, variable: Variable, given: Given) -> str:
    """The readable line for an error of pydantic's."""
    error, text = detail.get("ctx", {}).get("error"), given.text
    if not isinstance(error, Expected):
        error = Expected(f"be {variable.expectation}")
    if isinstance(index := next(iter(detail["loc"][2:]), None), int):
        text = split(text)[index]  # of a list
    return error.line(
        given.label, raw=text, secret=variable.is_secret and given.name == variable.name
    )
