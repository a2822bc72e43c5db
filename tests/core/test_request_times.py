"""Requests to outside systems are counted with their duration and their result."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from formrelay.core.errors import (
    NotNow,
    SinkBusy,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.core.request_times import request_counts, result_of, timed
from tests.support.request_counts import counting


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (SinkPermanent("no"), "refused"),
        (SinkBusy("no"), "busy"),
        (NotNow("no", after=timedelta(0)), "busy"),
        (SinkUnready("no"), "unready"),
        (SinkUnavailable("no"), "unavailable"),
        (SinkTransient("no"), "failed"),
        (TimeoutError(), "failed"),
    ],
)
def test_the_result_is_by_the_error(error: Exception, result: str) -> None:
    assert result_of(error) == result
    with counting("api") as found, pytest.raises(type(error)), timed("api"):
        raise error
    assert found == {result: 1}


def test_a_request_without_an_error_is_ok_and_has_a_duration() -> None:
    before = request_counts().get(("api", "ok"), [0.0])[0]
    with counting("api") as found, timed("api"):
        sum(range(10_000))
    assert found == {"ok": 1}
    assert request_counts()["api", "ok"][0] > before


def test_a_forked_process_begins_at_zero() -> None:
    with timed("api"):
        pass
    child = os.fork()
    if not child:
        os._exit(len(request_counts()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
