"""Which names a queue can have."""

from __future__ import annotations

import re

#: At most 200 characters: RabbitMQ allows 255 bytes, also for the names that are made of it.
_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9._-]{0,199}")


def is_queue_name(name: str) -> bool:
    """Whether a queue of another process can have this name, as Dramatiq and the brokers allow.

    Names that begin with ``__`` are ours.
    """
    return _NAME.fullmatch(name) is not None
