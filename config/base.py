"""The base class of the groups of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr

from ..core.errors import ConfigError

#: How pydantic reads a variable.
CONFIG = ConfigDict(hide_input_in_errors=True, regex_engine="python-re")


class Section(BaseModel):
    """A group of settings: frozen, and printed without its secrets.

    A field's description is the documentation of its variable. Made in code, a section has the
    values that it is given and defaults; only ``Settings.load`` reads the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, **CONFIG)

    #: Start of the variables' names. A field with a ``validation_alias`` has that name instead.
    prefix: ClassVar[str] = ""
    #: Whether the paths of secret URLs are secret too, like the paths of incoming webhooks.
    hides_paths: ClassVar[bool] = False

    @classmethod
    def conflicts(cls, texts: Mapping[str, str]) -> Iterator[ConfigError]:
        """Return an error for each contradiction between variables that are valid alone.

        Args:
            texts: the texts of the variables that are set, by name; of a secret in a file, the
                path.
        """
        del texts  # most groups have no contradictions
        return iter(())

    def faults(self) -> Iterator[tuple[str, str]]:
        """Return variable and error line for values that are valid alone, but not together."""
        return iter(())

    def warnings(self) -> Iterator[str]:
        """Return a line for each value that is valid, but probably not meant."""
        return iter(())

    def secret(self, name: str) -> str | None:
        """Return the current value of a secret field.

        Ask each time instead of keeping the value: a secret from a file is read again when the
        file changes.
        """
        value: SecretStr | None = getattr(self, name)
        return None if value is None else value.get_secret_value()
