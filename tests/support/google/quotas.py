"""Quotas and error bodies of the stand-in."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class Failed(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str, *details: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        error = {"code": code, "message": message, "status": _STATUS[code]}
        self.body = {"error": error | ({"details": list(details)} if details else {})}


def error_info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "sheets.googleapis.com", **metadata},
    }


@dataclass
class Quotas:
    """Requests per window: ``read`` and ``write``, of the project and of each user."""

    per_project: int = 300
    per_user: int = 60
    window: float = 60.0
    used: dict[tuple[str, str], deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def take(self, kind: str, user: str) -> None:
        """Count a request.

        Raises:
            Failed: 429.
        """
        name = kind.capitalize()
        for who, limit, most in (
            ("", f"{name}RequestsPerMinutePerProject", self.per_project),
            (user, f"{name}RequestsPerMinutePerUser", self.per_user),
        ):
            used = self.used[kind, who]
            while used and used[0] <= time.monotonic() - self.window:
                used.popleft()
            if len(used) >= most:
                raise Failed(
                    429,
                    f"Quota exceeded for quota metric '{name} requests' and limit '{limit}'",
                    error_info(
                        "RATE_LIMIT_EXCEEDED",
                        consumer="projects/1",
                        quota_limit=limit,
                        quota_limit_value=str(most),
                        quota_location="global",
                        quota_metric=f"sheets.googleapis.com/{kind}_requests",
                        quota_unit="1/min/{project}" + ("/{user}" if who else ""),
                    ),
                )
        self.used[kind, ""].append(time.monotonic())
        self.used[kind, user].append(time.monotonic())
