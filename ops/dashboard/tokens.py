"""The tokens of the settings, by role."""

from __future__ import annotations

from ...config import DashboardSettings
from .access import Role


def tokens_of(settings: DashboardSettings) -> dict[Role, str]:
    """Return the current token of each role that has one."""
    found = {
        Role.OPERATOR: settings.secret("token"),
        Role.READ_ONLY: settings.secret("read_only_token"),
    }
    return {role: token for role, token in found.items() if token is not None}
