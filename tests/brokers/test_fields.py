"""Fields of a message that filters use, without a broker."""

from __future__ import annotations

from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers.envelope import encode_batch
from formrelay.brokers.fields import form_ids
from formrelay.middleware.delivery import Batch, Delivery


def message(*args: Any, **kwargs: Any) -> Message[Any]:
    return Message("q", "actor", args, kwargs, {})


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (message(), set()),
        (message(payload={"formId": "a"}, metadata={"formId": "b"}), {"a", "b"}),
        (message(payload={"form_id": "a"}), {"a"}),
        (message({"formId": "a"}, {"formId": "b"}), {"a", "b"}),
        (message(payload=[{"formId": "a"}, {"formId": "b"}, 3]), {"a", "b"}),
        (message(payload={"body": {"formId": "a"}}), {"a"}),
        (message(payload={"answers": {"formId": "a"}}), set()),  # a value of a payload
        (message(payload={"formId": ["a"]}, metadata=None, batch=5), set()),
        (message(payload={"formId": 5}, batch=[1, {"kwargs": 2, "args": 3}]), set()),
    ],
    ids=str,
)
def test_form_ids_are_read_from_payload_and_metadata(one: Message[Any], expected: set[str]) -> None:
    assert form_ids(one) == expected


def test_a_frozen_batch_has_the_form_ids_of_its_parts() -> None:
    parts = [message(payload={"formId": "a"}), message({"formId": "b"})]
    batch = Batch.of([Delivery(part, None) for part in parts])
    assert form_ids(encode_batch(batch, {})) == {"a", "b"}
