"""Log lines as JSON, one object a line, without control characters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from pythonjsonlogger.orjson import orjson_default

from .printable import printable_json

_NEWLINE = orjson.OPT_APPEND_NEWLINE
#: The control character DEL, as an integer: Python finds it faster than ``b"\x7f"``.
_DEL = 0x7F


def as_json(fields: Mapping[str, Any]) -> bytes:
    """Encode the fields of a line as JSON, without control characters."""
    try:
        line = orjson.dumps(fields, option=_NEWLINE)
    except TypeError:
        line = _as_json_slowly(fields)
    # JSON escapes only C0 control characters, and people read logs on terminals.
    if line.isascii() and _DEL not in line:
        return line
    return printable_json(line.decode()).encode()


def _as_json_slowly(fields: Mapping[str, Any]) -> bytes:
    try:  # objects, and keys that are no strings
        return orjson.dumps(fields, orjson_default, _NEWLINE | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a lone surrogate, or an integer of more than 64 bits
        return f"{json.dumps(fields, default=str)}\n".encode()
