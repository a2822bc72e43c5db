"""The line of a job that is done has the same fields as if it were made like other lines."""

from __future__ import annotations

import json
import logging
import time
from typing import Any
from unicodedata import category

from dramatiq import Message
from hypothesis import example, given
from hypothesis import strategies as st

from formrelay.core.json_lines import as_json
from formrelay.core.log_handler import LineHandler
from formrelay.core.log_writer import LogWriter
from formrelay.core.outcomes import DONE
from formrelay.middleware import attempts
from formrelay.middleware.delivery import Delivery

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# With lone surrogates, which st.text() leaves out by default.
texts = st.text(st.characters(), max_size=8)
ids = (
    texts
    | st.text("abc-_09", max_size=8)
    | st.sampled_from(['"', "\\", "\x7f", "\x00", "é", "\ud800"])
)
metadata = (
    st.none()
    | st.integers()
    | texts
    | st.lists(texts, max_size=2)
    | st.fixed_dictionaries(
        {},
        optional={
            "formId": ids | st.integers(),
            "submissionId": ids | st.none(),
            "traceparent": st.sampled_from([TRACEPARENT, "wrong"]),
            "note": texts,
        },
    )
)


def ordinary_line(message: Delivery) -> bytes:
    """The line as :class:`LineHandler` makes it for other attempts."""
    written: list[bytes] = []
    writer = LogWriter(written.append, lambda count: b"")
    handler = LineHandler(writer, as_json)
    fields = attempts._fields(message) | attempts._verdict(DONE)
    handler.write_fields(logging.INFO, attempts.logger.name, "attempt", fields)
    writer.flush()
    return b"".join(written)


def without_times(line: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)
    assert isinstance(fields.pop("duration"), float)
    assert len(fields.pop("time")) == len("2026-01-31T09:30:00.125Z")
    return fields


@given(id=ids, actor=texts, queue=texts, about=metadata, traced=st.booleans(), took=st.floats(0, 9))
@example(id="id", actor="a", queue="q", about={"formId": "form"}, traced=True, took=0.0)
def test_the_line_of_a_done_job_has_the_same_fields_as_other_lines(
    id: str, actor: str, queue: str, about: Any, traced: bool, took: float
) -> None:
    options = {"traceparent": TRACEPARENT} if traced else {}
    message = Message(queue, actor, (), {"metadata": about}, options, message_id=id)
    delivery = Delivery(message, tag=None)
    delivery.outcome, delivery.started = DONE, time.monotonic() - took
    line = attempts._done_line(delivery)
    assert line is not None
    assert not any(category(char) == "Cc" for char in line.decode()[:-1])
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert without_times(line) == without_times(ordinary_line(delivery))
    assert abs(json.loads(line)["duration"] - took * 1000) < 500


def test_a_line_with_further_fields_is_made_like_other_lines() -> None:
    delivery = Delivery(Message("q", "a", (), {}, {}, message_id="id"), tag=None)
    delivery.fields = {"status": 200}
    assert attempts._done_line(delivery) is None
