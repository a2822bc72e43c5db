"""Errors contain no payload values that the API repeats."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formrelay.core.errors import SinkError
from formrelay.core.failure import Failure, Reason
from tests.sinks.api.test_api import PAYLOAD, api
from tests.sinks.wire import raw, serving
from tests.support.echoes import VALUES, as_text, echoes, leaked_parts


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(values=VALUES, data=st.data())
def test_no_form_of_a_value_is_in_the_failure(values: list[str], data: st.DataObject) -> None:
    payload = PAYLOAD | {"answers": {f"q{n}": value for n, value in enumerate(values)}}
    served = raw(data.draw(echoes(values)), keep=False)
    with serving(served) as wire, pytest.raises(SinkError) as caught:
        api(wire.url).save_submission(payload)
    failure = Failure.of(caught.value, reason=Reason.PERMANENT, attempt=1, now=0.0)
    assert leaked_parts(values, as_text(failure.to_json(), repr(caught.value))) == []
