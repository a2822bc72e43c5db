"""The tree of settings, and the only place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from ..core.errors import ConfigError, NotConfigured
from .base import Missing, Section, VariablesSource, variables_of
from .parser import Expected
from .sections import (
    ApiSettings,
    BrokerSettings,
    ClickhouseSettings,
    EmbeddedSettings,
    LoggingSettings,
    MonitoringSettings,
)
from .types import whole
from .variables import Origin, Variables
from .workers import (
    EmailSettings,
    EventSettings,
    PartialSettings,
    SheetsSettings,
    SubmissionSettings,
    WebhookSettings,
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
    worker_concurrency: Annotated[int, whole(1)] = Field(
        8, description="Threads a process, for every worker that does not set its own."
    )
    worker_processes: Annotated[int, whole(1)] = Field(1, description="Processes.")

    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        env_file: Path | None = Path(".env"),
        given: Mapping[str, object] | None = None,
    ) -> Self:
        """The settings of the environment and, behind it, of a ``.env`` file.

        Args:
            environ: the environment; None is this process's.
            env_file: the file; one that does not exist is left out, like None.
            given: what wins over both, by the variable's name (see :class:`.Variables`).

        Raises:
            NotConfigured: nothing that is set is wrong, but the broker is missing.
            ConfigError: one line for each wrong variable, and no secret in any.
        """
        variables = Variables(os.environ if environ is None else environ, env_file, given)
        sources = {name: VariablesSource(kind, variables) for name, kind in sections().items()}
        values = _values(sources)
        faults = [*variables.faults, *(line for one in sources.values() for line in one.faults)]
        settings = None
        try:
            settings = cls(**values)
        except ValidationError as error:
            faults += _lines(error, sources)
        for name, section in sections().items():
            faults += section.conflicts(sources[name].given)
        faults += variables.misspelt(known_names())
        faults += variables.unknown(known_names())
        # Outside the except: pydantic's error must not travel along, it holds the values.
        if settings is None or faults:
            is_missing = all(isinstance(fault, Missing) for fault in faults)
            raise (NotConfigured if is_missing else ConfigError)("\n".join(faults))
        settings._origins.update(_origins(sources))
        return settings._with_embedded_clickhouse()

    def origin(self, variable: str) -> Origin:
        """Where the value of a variable came from."""
        return self._origins.get(variable, "default")

    def _with_embedded_clickhouse(self) -> Self:
        if self.broker.kind != "embedded" or self.clickhouse.url is not None:
            return self
        # Absolute: after chdb:// a relative folder would be read as a host.
        folder = self.embedded.data_dir.absolute() / "clickhouse"
        url = SecretStr(f"chdb://{quote(folder.as_posix())}")
        return self.model_copy(
            update={"clickhouse": self.clickhouse.model_copy(update={"url": url})}
        )


def sections() -> dict[str, type[Section]]:
    """The sections by their field of :class:`Settings`; "" is the top of the tree."""
    found: dict[str, type[Section]] = {}
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = info.annotation
        else:
            found.setdefault("", Settings)
    return found


def known_names() -> set[str]:
    """Every variable that is read, the files of secrets included."""
    names: set[str] = set()
    for section in sections().values():
        for variable in variables_of(section).values():
            names.add(variable.name)
            if variable.parser.secret:
                names.add(f"{variable.name}_FILE")
    return names


def _values(sources: Mapping[str, VariablesSource]) -> dict[str, Any]:
    """What is set, as the tree that :class:`Settings` takes."""
    values: dict[str, Any] = {name: source() for name, source in sources.items() if name}
    return values | sources[""]()


def _origins(sources: Mapping[str, VariablesSource]) -> Iterator[tuple[str, Origin]]:
    for name, section in sections().items():
        for field, given in sources[name].given.items():
            variable = variables_of(section)[field]
            yield variable.name, given.origin if given.name == variable.name else "file"


def _lines(error: ValidationError, sources: Mapping[str, VariablesSource]) -> Iterator[str]:
    """A readable line for each of pydantic's errors."""
    for detail in error.errors(include_url=False, include_input=False):
        # The only field that must be set is the broker's kind, and `conflicts`
        # says more about that.
        if detail["type"] != "missing":
            yield _line(detail, sources)


def _line(detail: ErrorDetails, sources: Mapping[str, VariablesSource]) -> str:
    *section, field = (str(part) for part in detail["loc"][:2])
    name = section[0] if section else ""
    given = sources[name].given[field]
    variable = variables_of(sections()[name])[field]
    wrong = detail.get("ctx", {}).get("error")
    if not isinstance(wrong, Expected):
        wrong = Expected("be valid")  # no parser of ours let that through
    hidden = variable.parser.secret and given.name == variable.name
    return wrong.line(given.label, raw=given.text, secret=hidden)
