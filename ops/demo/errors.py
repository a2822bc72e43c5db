"""What ends the demo early."""

from __future__ import annotations

from ...core.errors import FormrelayError


class DemoFailed(FormrelayError):
    """The demo cannot go on."""


class CannotStart(DemoFailed):
    """Something that the demo needs is missing; nothing was started."""
