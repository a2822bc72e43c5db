"""Arguments arrive as they were sent, or are refused."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import dramatiq
import pytest

from formrelay.core.errors import ConfigError, InvalidJob
from tests.support.harness import Harness
from tests.support.waiting import wait_until


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    LARGE = "large"


@pytest.mark.parametrize("value", [UUID(int=5), Colour.RED, [{"a": UUID(int=5)}]], ids=repr)
def test_an_argument_that_would_arrive_as_another_type_is_refused(
    harness: Harness, value: Any
) -> None:
    with pytest.raises(InvalidJob, match="which would arrive as text"):
        harness.actor(print).send(value)


def test_text_of_an_enum_arrives_as_text(harness: Harness) -> None:
    calls: list[Any] = []
    harness.actor(calls.append, actor_name="act").send({"size": Size.LARGE})
    harness.start()
    wait_until(lambda: calls)
    assert calls == [{"size": "large"}]


def test_an_encoder_is_refused(harness: Harness) -> None:
    actor = harness.actor(print)
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        with pytest.raises(ConfigError, match="expected Dramatiq's JSONEncoder, got Pickle"):
            actor.send()
    finally:
        dramatiq.set_encoder(dramatiq.JSONEncoder())
