"""W3C Trace Context: the request or job that caused a job.

Specification: https://www.w3.org/TR/trace-context/. Senders may send any text, and the value goes
into log lines and to other servers, so a malformed value counts as missing.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import NamedTuple

#: Names of the headers, of message options and of keys in a job's metadata.
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

_TRACEPARENT = re.compile(
    r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.S
)
#: Printable ASCII; programs must pass on at least 512 characters.
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}\Z")
_ZEROS = ("0" * 32, "0" * 16)
#: Maximum length of a value that is read: later versions may be longer than version 00.
_MAX_LENGTH = 256
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        flags: 0 to 255; 1: the trace is recorded.
        tracestate: what tracing systems add; empty without it.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    tracestate: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def as_options(self) -> dict[str, str]:
        """The message options of a job in this place of the trace."""
        found = {TRACEPARENT: self.traceparent}
        if self.tracestate:
            found[TRACESTATE] = self.tracestate
        return found


#: The trace of the attempt that runs in this context; None without one.
current_trace: ContextVar[TraceContext | None] = ContextVar("formrelay_trace", default=None)


def parse(traceparent: object, tracestate: object = None) -> TraceContext | None:
    """Read the values of the headers; None if ``traceparent`` is missing or malformed.

    A malformed ``tracestate`` is left out. Never raises.
    """
    if not isinstance(traceparent, str) or len(traceparent) > _MAX_LENGTH:
        return None
    found = _TRACEPARENT.match(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or trace_id == _ZEROS[0] or span_id == _ZEROS[1]:
        return None
    number = int(flags, 16)
    if version == "00":
        if more is not None:
            return None
    else:  # of a later version, only this bit is known
        number &= _SAMPLED
    if not isinstance(tracestate, str) or _TRACESTATE.match(tracestate) is None:
        tracestate = ""
    return TraceContext(trace_id, span_id, number, tracestate)


def read(values: object) -> TraceContext | None:
    """Read the two values from the options of a message, or the metadata of a job."""
    if not isinstance(values, dict):
        return None
    given = values.get(TRACEPARENT)
    return None if given is None else parse(given, values.get(TRACESTATE))
