"""The questions on the page of a form, and their answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("text", "email", "number", "date", "textarea")


@dataclass(frozen=True)
class Question:
    """One field of the page.

    Attributes:
        kind: one of KINDS; with options it is a choice.
    """

    name: str
    label: str
    kind: str = "text"
    options: tuple[str, ...] = ()
    required: bool = False


def read(questions: list[Any]) -> list[Question]:
    """Return the questions of a form, without invalid ones, so that the page always works."""
    return [found for one in questions if (found := _one(one)) is not None]


def _one(given: Any) -> Question | None:
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        return None
    options = given.get("options")
    kind = given.get("kind")
    return Question(
        name=given["name"],
        label=str(given.get("label") or given["name"]),
        kind=kind if kind in KINDS else "text",
        options=tuple(map(str, options)) if isinstance(options, list) else (),
        required=given.get("required") is True,
    )


def answers(questions: list[Question], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the answers as text by name, without empty answers."""
    found = {one.name: given.get(one.name) for one in questions}
    # A submitted form has other line endings than the values that a script reads.
    return {
        name: value.replace("\r\n", "\n")
        for name, value in found.items()
        if isinstance(value, str) and value
    }


def missing(questions: list[Question], answered: Mapping[str, str]) -> list[str]:
    """Return the labels of required questions without an answer."""
    return [one.label for one in questions if one.required and not answered.get(one.name)]
