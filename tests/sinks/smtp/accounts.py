"""Accounts of tests: short time-outs, one connection."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from formrelay.sinks.smtp.account import Account, Timeouts

MESSAGE = b"From: a@here.example\r\nSubject: Hi\r\n\r\nHello\r\n"
SENDER = "forms@here.example"
ANN, BEN, CAT = "ann.lee@there.example", "ben.moss@there.example", "cat.hill@other.example"


def timeouts(seconds: float = 30, **some: float) -> Timeouts:
    """All time-outs the same, except some."""
    every = {name: timedelta(seconds=some.get(name, seconds)) for name in Timeouts.__slots__}
    return Timeouts(**{**every, "quit": timedelta(seconds=some.get("quit", 2))})


def account(port: int, **changes: Any) -> Account:
    """An account at a local server."""
    options = {"security": "none", "max_connections": 1, "timeouts": timeouts(), **changes}
    return Account(options.pop("host", "localhost"), port, **options)
