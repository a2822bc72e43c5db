"""Options of actors and messages: each works as in Dramatiq or is refused with a clear line.

With the in-memory broker alone, since all brokers share the checks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import Retries
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend

from formrelay.core.errors import ConfigError, InvalidJob
from formrelay.state import once
from formrelay.testing import MemoryBroker, running_worker

IN_BATCHES = {"batch_size": 2, "batch_wait": timedelta(seconds=1)}


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    yield broker
    broker.close()


def declare(broker: MemoryBroker, function: Any = print, **options: Any) -> Any:
    options = {"actor_name": "act", **options}
    return dramatiq.actor(function, broker=broker, **options)


#: Options that neither an actor nor a message may have, and the error.
WRONG = [
    ({"time_limit": "soon"}, "expected time_limit to be milliseconds, more than zero, got 'soon'"),
    ({"time_limit": 0}, "expected time_limit to be milliseconds, more than zero, got 0"),
    ({"time_limit": -5}, "expected time_limit to be milliseconds, more than zero, got -5"),
    ({"time_limit": True}, "expected time_limit to be milliseconds, more than zero, got True"),
    ({"time_limit": float("nan")}, "expected time_limit to be milliseconds, more than zero"),
    ({"max_age": "1h"}, "expected max_age to be milliseconds, zero or more, got '1h'"),
    ({"max_age": -1}, "expected max_age to be milliseconds, zero or more, got -1"),
    ({"max_age": True}, "expected max_age to be milliseconds, zero or more, got True"),
    ({"on_retry_exhausted": ["a"]}, r"expected on_retry_exhausted to be the name .* got \['a'\]"),
]


@pytest.mark.parametrize(("options", "error"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_refused_at_the_declaration_and_at_send(
    broker: MemoryBroker, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=f"^act: {error}"):
        declare(broker, **options)
    assert "act" not in broker.actors
    actor = declare(broker)
    with pytest.raises(InvalidJob, match=f"^act: {error}"):
        actor.send_with_options(**options)
    assert broker.counts(actor.queue_name).waiting == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_success": 5}, "expected on_success to be the name of an actor, got 5"),
        ({"on_failure": dramatiq.actor}, "expected on_failure to be the name of an actor, got <f"),
        ({"time_limit": None}, r"got None: float\('inf'\) means no limit"),
        ({"priority": "high"}, "expected priority to be a number, got 'high'"),
        ({"broker_priority": 5}, r"expected broker_priority on a message \(send_with_options\)"),
        ({"store_results": True}, "expected Dramatiq's Results middleware on the broker for store"),
        ({"result_ttl": 1000}, "expected Dramatiq's Results middleware on the broker for result"),
        ({"store_results": True, **IN_BATCHES}, "expected no store_results on an actor that runs"),
        ({"batch_key": str}, "expected batch_size as well as batch_key, got no batch_size"),
        ({"batch_key": "id", **IN_BATCHES}, "expected batch_key to be a function of a message's"),
        ({"batch_bytes": 0, **IN_BATCHES}, "expected batch_bytes to be a whole number from 1 on"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_option_that_an_actor_cannot_have_is_refused(
    broker: MemoryBroker, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=f"^act: .*{error}"):
        declare(broker, **options)
    assert "act" not in broker.actors


def test_an_actor_is_no_name_of_an_actor(broker: MemoryBroker) -> None:
    told = declare(broker, actor_name="told")
    with pytest.raises(ConfigError, match=r"to be the name .*, got the actor: use its"):
        declare(broker, on_failure=told)
    # In the options of a message, Dramatiq takes its name.
    message = declare(broker).send_with_options(on_failure=told)
    assert message.options["on_failure"] == "told"


def test_options_as_dramatiq_documents_them_are_accepted(broker: MemoryBroker) -> None:
    broker.add_middleware(Results(backend=StubBackend()))
    actor = declare(
        broker, time_limit=float("inf"), max_age=0, priority=-5, store_results=True, result_ttl=1000
    )
    actor.send_with_options(
        time_limit=500.5, max_age=1000, on_success="told", delay=60_000.5, broker_priority=0
    )
    actor.send_with_options(time_limit=None, max_age=None, on_retry_exhausted=None)
    assert broker.counts(actor.queue_name).waiting == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"broker_priority": True}, "expected broker_priority to be a whole number from 0 to 9"),
        ({"eta": True}, "expected eta to be unix milliseconds, got True"),
        ({"delay": True}, "expected delay to be milliseconds, got True"),
        ({"delay": "1s"}, "expected delay to be milliseconds, got '1s'"),
        ({"delay": float("inf")}, "expected delay to be milliseconds, got inf"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_number_of_another_type_is_refused_at_send(
    broker: MemoryBroker, options: dict[str, Any], error: str
) -> None:
    actor = declare(broker)
    with pytest.raises(InvalidJob, match=error):
        actor.send_with_options(**options)
    assert broker.counts(actor.queue_name).waiting == 0


def test_on_retry_exhausted_of_a_message_names_a_declared_actor(broker: MemoryBroker) -> None:
    actor = declare(broker)
    with pytest.raises(InvalidJob, match="act: expected on_retry_exhausted to name an actor of"):
        actor.send_with_options(on_retry_exhausted="told")
    declare(broker, actor_name="told")
    actor.send_with_options(on_retry_exhausted="told")
    assert broker.counts(actor.queue_name).waiting == 1


def test_a_worker_says_which_callbacks_of_actors_it_does_not_have(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    declare(broker, on_retry_exhausted="nobody", on_success="later", on_failure="act")
    declare(broker, actor_name="later")
    with running_worker(broker):
        pass
    lines = [line for line in caplog.records if line.message.startswith("a callback names")]
    assert [(vars(line)["option"], vars(line)["target"]) for line in lines] == [
        ("on_retry_exhausted", "nobody")
    ]
    assert [(line.levelno, vars(line)["actor"]) for line in lines] == [(logging.ERROR, "act")]


@pytest.mark.parametrize("where", ["actor", "middleware"])
def test_retry_when_alone_decides_whatever_max_retries_a_message_has(
    broker: MemoryBroker, where: str
) -> None:
    """As in stock Dramatiq."""
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError

    def three_times(retries: int, _error: BaseException) -> bool:
        return retries < 2

    options: dict[str, Any] = {"min_backoff": 1, "max_backoff": 1}
    if where == "actor":
        options["retry_when"] = three_times
    else:
        broker.add_middleware(Retries(retry_when=three_times))
    actor = declare(broker, fail, **options)
    actor.send_with_options(max_retries=0)
    with running_worker(broker):
        broker.join(actor.queue_name, timeout=30_000, fail_fast=False)
    assert len(calls) == 3


def test_max_retries_of_a_message_counts_if_its_actor_has_no_retry_when(
    broker: MemoryBroker,
) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError

    actor = declare(broker, fail, retry_when=None, min_backoff=1, max_backoff=1)
    actor.send_with_options(max_retries=0)
    with running_worker(broker):
        broker.join(actor.queue_name, timeout=30_000, fail_fast=False)
    assert len(calls) == 1


async def key_of(_order: object) -> str:
    return "key"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("x",), r"expected the key of once\(key\) to be a function .*, got 'x'"),
        ((None,), "got None"),
        ((key_of,), "that is not async, got <function key_of"),
        ((str, "keep"), r"expected keep of once\(...\) to be a timedelta longer than zero, got 60"),
        ((str, "lock"), r"expected lock of once\(...\) to be a timedelta longer than zero, got 60"),
    ],
    ids=["text", "None", "async", "keep", "lock"],
)
def test_a_wrong_once_is_refused_where_it_is_made(arguments: tuple[Any, ...], error: str) -> None:
    key, *wrong = arguments
    with pytest.raises(ConfigError, match=error):
        once(key, **dict.fromkeys(wrong, 60))


def test_a_key_may_be_an_object_that_can_be_called(broker: MemoryBroker) -> None:
    declare(broker, idempotency=once(str, keep=timedelta(hours=1), lock=timedelta(seconds=5)))
    with pytest.raises(ConfigError, match="longer than zero"):
        once(str, lock=timedelta(0))
