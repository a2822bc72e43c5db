"""The variables of logs and of systemd."""

from __future__ import annotations

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from .base import Section
from .types import AnyCase, LogLevel


class LoggingSettings(Section):
    """Logs"""

    level: LogLevel = Field(
        "INFO",
        validation_alias="LOG_LEVEL",
        description="Lowest level that is logged: a level of Python, or fatal, warn, verbose, "
        "trace.",
    )
    format: Annotated[Literal["auto", "json", "text"], AnyCase] = Field(
        "auto",
        validation_alias="FORMRELAY_LOG_FORMAT",
        description="json, text, or auto: text on a terminal, otherwise one JSON object a line.",
    )
    exceptions: Annotated[Literal["message", "places", "none"], AnyCase] | None = Field(
        None,
        validation_alias="LOG_EXCEPTIONS",
        description="Details of exceptions in logs, dead letters and pages, besides the type: "
        "message (text and places in the code), places, or none. Default: places for formrelay's "
        "actors, message for actors of your own.",
    )
    no_color: str = Field(
        "",
        validation_alias="NO_COLOR",
        description="Any value switches the colours of text off.",
    )
    debug: str = Field(
        "",
        validation_alias="DEBUG",
        description="Patterns as in npm's debug package; a pattern that matches workers:* sets the "
        "level to DEBUG.",
    )

    @property
    def effective_level(self) -> str:
        """The level in force, as Python's logging names it."""
        return "DEBUG" if _matches_workers(self.debug) else self.level


class SystemdSettings(Section):
    """Set by systemd for a unit of Type=notify"""

    notify_socket: str = Field(
        "",
        validation_alias="NOTIFY_SOCKET",
        description="Socket to which workers say that they are ready.",
    )
    watchdog_usec: int | None = Field(
        None,
        validation_alias="WATCHDOG_USEC",
        gt=0,
        description="Microseconds without a sign of life after which systemd restarts the unit.",
    )

    @property
    def watchdog(self) -> timedelta | None:
        """Time without a sign of life after which systemd restarts the unit."""
        micros = self.watchdog_usec
        return None if micros is None else timedelta(microseconds=micros)


def _matches_workers(patterns: str) -> bool:
    """Whether the patterns of npm's debug package switch workers on.

    Its rules: patterns are separated by spaces or commas, ``*`` is the wildcard, ``-`` excludes.
    Django's ``DEBUG=True`` matches nothing of formrelay.
    """
    parts = patterns.replace(",", " ").split()
    excluded = [part[1:] for part in parts if part.startswith("-")]
    included = [part for part in parts if not part.startswith("-")]
    return any(map(_matches_some, included)) and not any(map(_matches_all, excluded))


def _matches_some(pattern: str) -> bool:
    return pattern.startswith("workers:") or _matches_all(pattern)


def _matches_all(pattern: str) -> bool:
    literal = pattern.replace("[", "[[]").replace("?", "[?]")  # only '*' is special there
    return pattern == "workers" or fnmatchcase("workers:", literal)
