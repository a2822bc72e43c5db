"""Errors that end the demo early."""

from __future__ import annotations

from ...core.errors import FormrelayError


class DemoFailed(FormrelayError):
    """The demo cannot continue."""


class CannotStart(DemoFailed):
    """A requirement of the demo is missing; nothing was started."""
