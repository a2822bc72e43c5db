"""The public names of the fields in log lines.

``time``, ``level``, ``worker``, ``msg``, ``jobId`` and ``duration`` are the names of the systems
that formrelay replaced; the other names have the same spelling. Programs depend on all of them.
"""

from __future__ import annotations

from functools import cache

#: Fields of every line: ISO 8601 in UTC, Python's name of the level, ``host:pid``, text.
TIME, LEVEL, WORKER, LOGGER, MESSAGE = "time", "level", "worker", "logger", "msg"
#: Fields of the line of an attempt. The duration is in milliseconds.
JOB_ID, DURATION, ERROR_TYPE, ERROR_MESSAGE = "jobId", "duration", "errorType", "errorMessage"
#: The innermost places of an error, ``file:line function``, and its causes.
ERROR_PLACES, ERROR_CAUSES = "errorPlaces", "errorCauses"

#: Names that are not just spelled differently.
_RENAMED = {
    "message": MESSAGE,
    "message_id": JOB_ID,
    "error": ERROR_TYPE,
    "error_message": ERROR_MESSAGE,
    "duration_ms": "requestDuration",
    "retry_in_s": "retryInSeconds",
}


@cache
def public_name(name: str) -> str:
    """Return the name of a field in a log line: ``part_ids`` becomes ``partIds``.

    Args:
        name: as in ``extra`` of a call of formrelay's loggers.
    """
    if name in _RENAMED:
        return _RENAMED[name]
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
