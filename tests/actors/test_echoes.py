"""Values of a webhook that a receiver repeats are neither logged nor recorded."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formrelay.actors.webhooks import actor as webhooks
from formrelay.actors.webhooks import delivery_log as log_module
from formrelay.core.failure import Failure, Reason
from tests.actors.conftest import Site
from tests.actors.test_webhooks import KEY
from tests.middleware.lines import Lines
from tests.sinks.wire import Wire, raw, serving
from tests.support.echoes import FORMS, VALUES, as_text, echoes, leaked_parts
from tests.support.loop import run


@pytest.fixture(autouse=True)
def delivery_log(site: Site) -> None:
    site.use(webhooks={"delivery_log": True})


def attempt(site: Site, wire: Wire, values: list[str]) -> str:
    """Everything that one attempt to deliver values logs and records, as text."""
    from formrelay.actors.model import Job, Metadata

    payload = webhooks.Webhook(
        url=f"{wire.url}/{quote(values[0])}?{quote(values[-1])}",
        body={"answers": values},
        headers={"x-token": "v4lue-0f-a-header"},
        secret=KEY,
    )
    job = Job(payload, Metadata(), message_id="m1")
    failure: Any = None
    try:
        run(webhooks._deliver(job))
    except Exception as error:
        failure = Failure.of(error, reason=Reason.PERMANENT, attempt=1, now=0.0).to_json()
    log = log_module.delivery_log()
    log.send()
    rows = [message["kwargs"] for message in site.messages("events")]
    assert rows
    site.broker.flush("events")
    return as_text(job.fields, failure, rows)


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(values=VALUES, data=st.data())
def test_no_value_is_left_in_log_line_failure_or_delivery_log(
    site: Site, values: list[str], data: st.DataObject
) -> None:
    everything = [*values, "v4lue-0f-a-header", KEY]
    answer = data.draw(echoes(everything))
    with serving(raw(answer, keep=False)) as wire:
        kept = attempt(site, wire, values)
    assert leaked_parts(everything, kept) == []


@pytest.mark.parametrize("status", [200, 400, 500])
def test_no_value_is_left_in_a_workers_log_lines_or_dead_letters(
    site: Site, lines: Lines, status: int
) -> None:
    values = ["Jane.Doe@example.org", "<b>4111 1111 1111 1111</b>"]
    said = "|".join(form(value) for form in FORMS for value in values).encode()
    head = f"HTTP/1.1 {status} {values[0]}\r\nContent-Type: text/{values[0]}\r\n"
    answer = f"{head}Content-Length: {len(said)}\r\n\r\n".encode() + said
    with serving(raw(answer)) as wire:
        site.actors.deliver_webhook.send(
            {"url": wire.url, "body": {"answers": values}, "secret": KEY}
        )
        site.work_off("webhooks")
    failures = [letter.failure.to_json() for letter in site.dead("webhooks")]
    rows = orjson.dumps([message["kwargs"] for message in site.messages("events")]).decode()
    assert "bytes of another type" in rows
    assert leaked_parts(values, f"{lines.text}\n{failures}\n{rows}") == []
