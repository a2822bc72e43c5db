"""What a local server gets from sentry-sdk of failed attempts: no value of a payload."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from dramatiq import Worker
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.dramatiq import DramatiqIntegration

from formrelay.brokers.contract import BrokerOptions
from formrelay.core.errors import SinkPermanent
from formrelay.middleware.sentry_events import cleaned
from formrelay.testing import MemoryBroker
from tests.actors.receiver import Receiver, receiving
from tests.support.harness import Harness

# sentry-sdk asks git for the release.
pytestmark = pytest.mark.process

ANSWER, LOCAL, TEXT, CRUMB, LOGGED = (
    f"MARK-{name}" for name in ("answer", "local", "text", "crumb", "logged")
)
logger = logging.getLogger("program.of.the.host")


class Sent:
    """What the server got: the bytes, and the items by their type."""

    def __init__(self, server: Receiver) -> None:
        self.bytes = b"".join(_unpacked(one.headers, one.body) for one in server.requests)
        self.items: dict[str, list[Any]] = {}
        for one in server.requests:
            for item in Envelope.deserialize(_unpacked(one.headers, one.body)).items:
                self.items.setdefault(item.type, []).append(item.payload.json)

    def errors(self) -> list[Any]:
        return [each for each in self.items.get("event", []) if "exception" in each]


def _unpacked(headers: dict[str, str], body: bytes) -> bytes:
    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as server:
        yield server
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)  # its patches do nothing without a client


def init(server: Receiver, **options: Any) -> None:
    """As a program of the host may do it: with everything on."""
    if "enable_logs" in DEFAULT_OPTIONS:  # not in sentry-sdk 2.20
        options["enable_logs"] = True
    sentry_sdk.init(
        dsn=f"http://key@127.0.0.1:{server.port}/1",
        integrations=[DramatiqIntegration()],
        auto_enabling_integrations=False,
        send_default_pii=True,
        max_request_body_size="always",
        attach_stacktrace=True,
        traces_sample_rate=1.0,
        default_integrations=True,
        **options,
    )


def fail(error: Exception) -> Any:
    def act(answer: str) -> None:
        local = [LOCAL, answer]
        sentry_sdk.add_breadcrumb(message=CRUMB)
        logger.warning("is failing %s", LOGGED)
        logger.error("failing %s", LOGGED, extra={"more": LOGGED})
        try:
            raise KeyError(TEXT, len(local))
        except KeyError as cause:
            raise error from cause

    return act


def run(harness: Harness, server: Receiver, error: Exception) -> Sent:
    """Run a job that fails for good, and send what there is to tell of it."""
    actor = harness.actor(fail(error), actor_name="bill", max_retries=0)
    actor.send(ANSWER)
    harness.start()
    harness.broker.join(harness.queue, fail_fast=False)
    harness.stop()
    sentry_sdk.flush(10)
    return Sent(server)


@pytest.mark.parametrize("when", ["before the broker", "while the worker runs"])
def test_no_value_of_a_job_is_sent(server: Receiver, unique: str, when: str) -> None:
    seen: list[str] = []

    def before_send(event: Any, hint: Any) -> Any:
        seen.append(str(event))
        event["request"] = {"data": ANSWER}
        return event

    if when == "before the broker":
        init(server, before_send=before_send)
    harness = Harness(MemoryBroker(), unique)
    if when != "before the broker":
        other = Worker(harness.broker, queues={"another"}, worker_timeout=20, worker_threads=1)
        other.start()
        init(server, before_send=before_send)
        other.stop()
    sent = run(harness, server, ValueError(TEXT))
    harness.close()
    for mark in (ANSWER, LOCAL, TEXT, CRUMB, LOGGED):
        assert mark.encode() not in sent.bytes
    (error,) = sent.errors()
    values = error["exception"]["values"]
    assert [(each["type"], each["value"]) for each in values] == [
        ("KeyError", ""),
        ("ValueError", ""),
    ]
    assert values[1]["stacktrace"]["frames"][-1]["function"] == "act"
    assert error["extra"]["dramatiq_message_id"]
    assert not {"request", "breadcrumbs"} & set(error)
    assert error["transaction"] == "bill"
    (logged,) = (each for each in sent.items["event"] if "exception" not in each)
    assert logged["logentry"] == {"message": "failing %s"}
    assert len(sent.items.get("transaction", ())) <= 1  # none with sentry-sdk 2.20
    # The program's own function sees everything, as without formrelay.
    assert any(TEXT in event and ANSWER in event for event in seen)
    assert sentry_sdk.get_client().options["before_send"] is not before_send


@pytest.mark.parametrize(
    ("error", "setting", "texts"),
    [
        (SinkPermanent("the API answered 410"), None, ["", "the API answered 410"]),
        (ValueError(TEXT), "message", [f"('{TEXT}', 2)", TEXT]),
        (ValueError(TEXT), "places", ["", ""]),
    ],
    ids=["formrelay's", "message", "places"],
)
def test_texts_are_sent_of_formrelays_errors_or_if_that_is_asked_for(
    server: Receiver, unique: str, error: Exception, setting: str | None, texts: list[str]
) -> None:
    init(server)
    harness = Harness(MemoryBroker(options=BrokerOptions(log_exceptions=setting)), unique)
    sent = run(harness, server, error)
    harness.close()
    (found,) = sent.errors()
    assert [each["value"] for each in found["exception"]["values"]] == texts
    assert ANSWER.encode() not in sent.bytes


def test_a_dropped_event_stays_dropped(server: Receiver, unique: str) -> None:
    init(server, before_send=lambda event, hint: None)
    harness = Harness(MemoryBroker(), unique)
    sent = run(harness, server, ValueError(TEXT))
    harness.close()
    assert "event" not in sent.items


@pytest.mark.parametrize("odd", [None, 5, "text", [1], {"values": None}, {"values": [None, 5]}])
def test_an_event_of_any_shape_is_cleaned(odd: Any) -> None:
    names = ("exception", "threads", "stacktrace", "contexts", "extra", "logentry", "spans")
    event = {name: odd for name in names if name != "spans" or not isinstance(odd, int)}
    assert "user" not in cleaned({**event, "logger": "x", "request": odd, "breadcrumbs": odd}, odd)
