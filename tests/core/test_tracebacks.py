from __future__ import annotations

import traceback
from typing import Any

import pytest

from formrelay.core.tracebacks import traceback_text


def failed() -> Exception:
    try:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            raise RuntimeError("expected a divisor") from error
    except RuntimeError as error:
        return error
    return AssertionError("expected an error")


@pytest.fixture
def broken_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.11.8, while the finalizer of another object parses code."""

    def format_exception(*args: Any, **kwargs: Any) -> list[str]:
        raise SystemError("AST constructor recursion depth mismatch (before=120, after=171)")

    monkeypatch.setattr(traceback, "format_exception", format_exception)


@pytest.mark.usefixtures("broken_parser")
def test_has_causes_places_and_messages_without_pythons_parser() -> None:
    text = traceback_text(failed())
    assert "ZeroDivisionError: division by zero" in text
    assert text.endswith("RuntimeError: expected a divisor\n")
    assert 'test_tracebacks.py", line ' in text
    assert "in failed" in text


@pytest.mark.usefixtures("broken_parser")
def test_ends_for_errors_that_cause_each_other() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert traceback_text(first).count("ValueError: first") == 1


def test_is_the_text_of_python() -> None:
    assert "The above exception was the direct cause" in traceback_text(failed())
