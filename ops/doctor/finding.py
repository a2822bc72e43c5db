"""What ``formrelay doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        what: the part that was checked.
        state: 'ok', 'weak' (works, with a weaker guarantee) or 'bad'.
        says: details, and what to do.
    """

    what: str
    state: Literal["ok", "weak", "bad"]
    says: str
