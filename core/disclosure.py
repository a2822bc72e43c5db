"""Which details of an exception logs, dead letters and pages contain (``LOG_EXCEPTIONS``).

The only code that turns an exception of an actor into text.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from .errors import FormrelayError, describe, type_name

#: Maximum length of a text that is read, in characters; records cut it further.
_MAX_TEXT = 20_000


class Detail(StrEnum):
    """The details of an exception that may be written, besides its type."""

    MESSAGE = "message"
    PLACES = "places"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Which details of an actor's exceptions may be written.

    Attributes:
        detail: ``MESSAGE``: text and places; ``PLACES``: places; ``NONE``: only the type.
        is_of_formrelay: whether the actor is formrelay's. The text of formrelay's errors contains
            no payload values, so it is always written. An actor of the program may raise these
            errors with any text: then only the text of errors that formrelay's code raised is
            written.
    """

    detail: Detail = Detail.PLACES
    is_of_formrelay: bool = True

    @property
    def has_places(self) -> bool:
        """Whether the places in the code may be written."""
        return self.detail is not Detail.NONE

    def text(self, error: BaseException) -> str:
        """The text of an exception, or its type if its text is empty or must not be written."""
        if self.detail is Detail.MESSAGE:
            return _text(error) or type_name(error)
        if self.is_of_formrelay or _is_raised_by_formrelay(error):
            return describe(error)
        return type_name(error)

    def line(self, error: BaseException) -> str:
        """Type and text of an exception in one."""
        kind, text = type_name(error), self.text(error)
        return kind if text == kind else f"{kind}: {text}"

    def brief(self, error: BaseException) -> str:
        """The text of an error of formrelay, which names the problem; type and text of another."""
        return self.text(error) if isinstance(error, FormrelayError) else self.line(error)


#: For exceptions outside of an attempt.
DEFAULT = Disclosure()


def _text(error: BaseException) -> str:
    with suppress(Exception):  # its __str__ may raise
        # JSON cannot hold lone surrogates.
        return str(error)[:_MAX_TEXT].encode(errors="replace").decode()
    return ""


def _is_raised_by_formrelay(error: BaseException) -> bool:
    if not isinstance(error, FormrelayError) or error.__traceback__ is None:
        return False
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    module = str(place.tb_frame.f_globals.get("__name__"))
    return module.startswith("formrelay.") and not module.startswith("formrelay.examples.")
