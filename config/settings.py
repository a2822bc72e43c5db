"""The tree of settings, and the only reader of the environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError

from ..core.errors import ConfigError, NotConfigured
from .alerts import AlertSettings, MonitoringSettings
from .base import Section
from .broker import BrokerSettings, EmbeddedSettings
from .dashboard import DashboardSettings
from .emails import EmailSettings, SmtpSettings
from .encryption import EncryptionSettings
from .expected import Expected
from .observability import LoggingSettings, SystemdSettings
from .sheets import SheetsSettings
from .sinks import ApiSettings, ClickhouseSettings
from .sources import Given, Sources
from .tracing import SentrySettings, TracingSettings
from .types import Count, ModuleNames, Unit, parts, read
from .worker_http import WorkerHttpSettings
from .workers import (
    EventSettings,
    PartialSettings,
    RecyclingSettings,
    SubmissionSettings,
    WebhookSettings,
)

logger = logging.getLogger("formrelay.config")


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
    smtp: SmtpSettings = Field(default_factory=SmtpSettings)
    sheets: SheetsSettings = Field(default_factory=SheetsSettings)
    encryption: EncryptionSettings = Field(default_factory=EncryptionSettings)
    dashboard: DashboardSettings = Field(default_factory=DashboardSettings)
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)
    worker_http: WorkerHttpSettings = Field(default_factory=WorkerHttpSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    systemd: SystemdSettings = Field(default_factory=SystemdSettings)
    recycling: RecyclingSettings = Field(default_factory=RecyclingSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    sentry: SentrySettings = Field(default_factory=SentrySettings)
    worker_concurrency: Count = Field(
        8, description="Number of threads in a process, for every worker without its own setting."
    )
    worker_processes: Count = Field(1, description="Number of worker processes.")
    imports: ModuleNames = Field(
        (),
        validation_alias="FORMRELAY_IMPORTS",
        description="Modules with actors of your own that workers and commands import, "
        "comma-separated. The option --import adds more.",
    )

    @staticmethod
    def load(
        environ: Mapping[str, str] | None = None,
        env_file: Path | None = Path(".env"),
        given: Mapping[str, object] | None = None,
    ) -> Settings:
        """Read the settings from the environment and, behind it, a ``.env`` file.

        Logs each warning once per process.

        Args:
            environ: the environment; None is the environment of this process.
            env_file: the file; None reads none, and it need not exist.
            given: wins over both, by the variable's name (see :class:`.Sources`).

        Raises:
            NotConfigured: every variable is valid, but the broker is missing.
            ConfigError: one line for each invalid variable, without secrets.
        """
        reading = read_settings(environ, env_file, given)
        for line in reading.warnings:
            _warn(line)
        if reading.error is not None:
            reading.error.settings = reading.settings
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


# -- the variables -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment.

    Attributes:
        section: the group of its field; "" for a field of :class:`Settings` itself.
        kind: type of the field, ``Annotated`` with its limits.
        unit: unit of a duration; None for other values.
        is_secret: whether its value is never shown, and may stand in a file (``NAME_FILE``).
    """

    name: str
    section: str
    field: str
    kind: Any
    unit: Unit | None
    description: str
    is_secret: bool


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
    for section, group in sections().items():
        for field, info in group.model_fields.items():
            if not section and field in sections():
                continue
            # Field() only because Annotated needs some metadata.
            kind = Annotated[info.annotation, Field(), *info.metadata]  # type: ignore[name-defined]
            plain, marks = parts(kind)
            unit = next((mark for mark in marks if isinstance(mark, Unit)), None)
            suffix = unit.suffix if unit else ""
            name = str(info.validation_alias or f"{group.prefix}{field.upper()}{suffix}")
            found[name] = Variable(
                name, section, field, kind, unit, info.description or "", plain is SecretStr
            )
    return found


def known_names() -> set[str]:
    """The names of all variables, the files of secrets included."""
    secrets = {f"{name}_FILE" for name, variable in variables().items() if variable.is_secret}
    return secrets | variables().keys()


# -- reading them ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings as far as they are valid, and the errors.

    Attributes:
        settings: invalid variables have their defaults.
        given: the variables that are set, by name.
        invalid: names of the variables without a valid value.
        error: the error that :meth:`Settings.load` raises; None if everything is valid.
        warnings: a line for each thing that is allowed but probably not meant.
    """

    settings: Settings
    given: Mapping[str, Given]
    invalid: frozenset[str]
    error: ConfigError | None
    warnings: tuple[str, ...] = ()


def read_settings(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = Path(".env"),
    given: Mapping[str, object] | None = None,
) -> Reading:
    """Read the valid settings; takes the arguments of ``Settings.load``.

    Raises:
        ConfigError: the file exists and cannot be read.
    """
    sources = Sources(os.environ if environ is None else environ, env_file, given)
    found: dict[str, Given] = {}
    wrong: dict[str, str] = {}
    tree: dict[str, dict[str, Any]] = {name: {} for name in sections()}
    for name, variable in variables().items():
        entry = sources.get(name, is_secret=variable.is_secret)
        if entry is None:
            continue
        found[name] = entry
        try:
            value = read(variable.kind, entry.value(is_secret=variable.is_secret))
            tree[variable.section][variable.field] = value
        except Expected as error:
            is_hidden = variable.is_secret and not entry.is_file
            wrong[name] = error.line(entry.label, raw=entry.text, secret=is_hidden)
    errors = [ConfigError(line) for line in (*sources.errors, *wrong.values())]
    texts = {name: entry.text.strip() for name, entry in found.items()}
    for section in sections().values():
        errors += section.conflicts(texts)
    errors += map(ConfigError, sources.unknown(known_names()))
    fields: dict[str, Any] = tree.pop("") | tree
    try:
        settings = Settings(**fields)
    except ValidationError:  # only the broker can be missing
        wrong.setdefault("BROKER", "")
        tree["broker"]["kind"] = "embedded"
        settings = Settings(**fields)
    if "BROKER" not in wrong:
        settings = settings._with_embedded_clickhouse()
    groups = _valid_groups(settings, wrong)
    for group in groups:
        for name, line in group.faults():
            wrong[name] = line
            errors.append(ConfigError(line))
    warnings = [*sources.misspelled(known_names())]
    warnings += (line for group in groups for line in group.warnings())
    joined = _joined(errors)
    if _may_lack_broker and isinstance(joined, NotConfigured):
        joined = None
    return Reading(settings, found, frozenset(wrong), joined, tuple(warnings))


def _valid_groups(settings: Settings, wrong: Collection[str]) -> list[Section]:
    """The groups of settings without an invalid variable."""
    faulty = {variables()[name].section for name in wrong}
    return [getattr(settings, name) for name in sections() if name and name not in faulty]


@cache
def _warn(line: str) -> None:
    logger.warning("%s", line)


def _joined(errors: list[ConfigError]) -> ConfigError | None:
    if not errors:
        return None
    is_missing = all(isinstance(error, NotConfigured) for error in errors)
    return (NotConfigured if is_missing else ConfigError)("\n".join(map(str, errors)))


# -- the settings of this process --------------------------------------------------------

_lock = Lock()
_current: Settings | None = None
_may_lack_broker = False
_source: Callable[[], Settings] = Settings.load


def get_settings() -> Settings:
    """Return the settings of this process.

    The first call reads them from the environment, or from the source of :func:`use_source`.

    Raises:
        ConfigError: a variable is invalid, or the broker is missing.
    """
    global _current
    if _current is not None:  # the usual case, once for each job
        return _current
    with _lock:
        if _current is None:
            _current = _source()
        return _current


def allow_no_broker() -> None:
    """Let this process read settings without a broker: its broker is in memory, for tests."""
    global _may_lack_broker
    _may_lack_broker = True


def use_source(source: Callable[[], Settings]) -> bool:
    """Read the settings from ``source`` when they are first asked for.

    Returns:
        False if the settings have been read from elsewhere before, so that ``source`` is ignored.
    """
    global _source
    with _lock:
        if _current is None:
            _source = source
        return _source is source


def use_settings(settings: Settings) -> None:
    """Use ``settings`` in this process. Call it before the first actor is declared."""
    global _current
    with _lock:
        _current = settings
