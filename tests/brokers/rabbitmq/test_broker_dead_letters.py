"""Messages that RabbitMQ dead-letters are listed with its reason and can be replayed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from formrelay.brokers import DeadFilter, Entry
from formrelay.core.failure import Reason
from tests.brokers.rabbitmq.conftest import MakeHarness, api, vhost_of
from tests.support.harness import Harness
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]


@pytest.fixture
def set_policy(rabbitmq_url: str, unique: str) -> Callable[..., None]:
    """Set a policy for the work queue of this test, as an operator does."""

    def set_policy(**definition: Any) -> None:
        base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
        body = {"pattern": f"^{unique}$", "apply-to": "queues", "definition": definition}
        api(base, f"policies/{vhost_of(rabbitmq_url)}/limits", method="PUT", body=body)

    return set_policy


def the_only_letter(harness: Harness, reason: Reason) -> Entry:
    """Return the only dead letter, found by filter."""
    inspector = harness.broker.inspector
    wait_until(lambda: harness.broker.counts(harness.queue).dead == 1)
    (letter,) = inspector.dead_letters(DeadFilter(harness.queue, reason=reason))
    assert list(inspector.dead_letters(DeadFilter(reason=Reason.PERMANENT))) == []
    assert letter.died is not None
    assert abs(time.time() - letter.died) < 30
    return letter


def test_requeued_too_often(
    harness: Harness, channel: Any, unique: str, set_policy: Callable[..., None]
) -> None:
    actor = harness.actor(print, actor_name="collect")
    sent = actor.send(1)
    set_policy(**{"delivery-limit": 1})

    def put_back() -> bool:
        method, _, _ = channel.basic_get(unique)
        if method is not None:
            channel.basic_nack(method.delivery_tag, requeue=True)
        return bool(harness.broker.counts(harness.queue).dead)

    wait_until(put_back)
    letter = the_only_letter(harness, Reason.DELIVERY_LIMIT)
    assert letter.id == sent.message_id
    assert letter.failure is not None
    assert letter.failure.message == (
        f"dead-lettered by RabbitMQ from '{unique}': requeued more often than the delivery limit "
        "allows (count: 1)"
    )
    set_policy(**{"delivery-limit": 100})
    assert harness.broker.inspector.replay(DeadFilter(reason=Reason.DELIVERY_LIMIT)) == 1
    assert harness.broker.counts(unique).waiting == 1


def test_expired_after_an_attempt(
    harness: Harness, unique: str, set_policy: Callable[..., None]
) -> None:
    begun, may_fail = Event(), Event()

    def fail(_number: int) -> None:
        begun.set()
        assert may_fail.wait(60)
        raise ValueError("the failure of an attempt before")

    message = harness.actor(fail, actor_name="fail").send(1)
    harness.start()
    assert begun.wait(60)
    # A time-to-live applies to messages that are queued after it is set: to the second attempt.
    set_policy(**{"message-ttl": 100})
    may_fail.set()
    harness.stop()
    letter = the_only_letter(harness, Reason.EXPIRED)
    assert letter.id == message.message_id
    assert letter.failure is not None
    assert letter.failure.attempt == 1
    assert "waited longer than its time-to-live (count: 1)" in letter.failure.message
    assert harness.broker.inspector.delete_dead([message.message_id]) == 1


@pytest.mark.own_vhost
def test_dropped_from_a_full_queue(
    make_harness: MakeHarness, unique: str, set_policy: Callable[..., None]
) -> None:
    harness = make_harness(queue_type="classic")
    actor = harness.actor(print, actor_name="collect")
    harness.broker.counts(unique)
    set_policy(**{"max-length": 1})
    first = actor.send(1)
    wait_until(lambda: actor.send(2) and harness.broker.counts(unique).dead)
    letters = harness.broker.inspector.dead_letters(DeadFilter(reason=Reason.MAXLEN))
    letter = next(letters)
    assert letter.id == first.message_id
    assert letter.failure is not None
    assert f"from '{unique}'" in letter.failure.message


def test_undecodable_bytes_rejected_by_another_program(
    harness: Harness, channel: Any, unique: str
) -> None:
    harness.inject(b"\xff no message")
    method, _, _ = wait_until(lambda: (got := channel.basic_get(unique)) and got[0] and got)
    channel.basic_reject(method.delivery_tag, requeue=False)
    letter = the_only_letter(harness, Reason.REJECTED)
    assert harness.broker.inspector.replay([letter.id], queue=unique) == 1
    _, _, body = wait_until(lambda: (got := channel.basic_get(unique)) and got[0] and got)
    assert body == b"\xff no message"


def test_a_job_rejected_by_a_worker_of_stock_dramatiq(
    harness: Harness, channel: Any, unique: str
) -> None:
    actor = harness.actor(print, actor_name="collect")
    trace = 'Traceback (most recent call last):\n  File "mail.py", line 5, in send\nKeyError: 7\n'
    actor.send_with_options(args=(1,), traceback=trace)
    method, _, _ = wait_until(lambda: (got := channel.basic_get(unique)) and got[0] and got)
    channel.basic_reject(method.delivery_tag, requeue=False)
    letter = the_only_letter(harness, Reason.REJECTED)
    assert letter.failure is not None
    assert (letter.failure.error, letter.failure.where) == ("KeyError", ("mail.py:5 send",))
    assert letter.failure.message.endswith("rejected by a consumer (count: 1) after KeyError")


def test_due_when_its_queue_was_gone(make_harness: MakeHarness, channel: Any, unique: str) -> None:
    make_harness().actor(print, actor_name="collect").send_with_options(args=(1,), delay=300)
    channel.queue_delete(unique)
    dead = f"dlq.{unique}"
    wait_until(lambda: channel.queue_declare(dead, passive=True).method.message_count)
    harness = make_harness()
    harness.actor(print, actor_name="collect")
    letter = the_only_letter(harness, Reason.UNDELIVERABLE)
    assert letter.failure is not None
    assert "did not exist when it was due" in letter.failure.message
    assert harness.broker.inspector.replay([letter.id], queue=unique) == 1


def test_a_queue_without_a_delivery_limit_is_used_unchanged(
    harness: Harness, channel: Any, unique: str
) -> None:
    """Earlier versions declared no limit, and RabbitMQ 4 sets it to 20."""
    arguments = {"x-queue-type": "quorum", "x-dead-letter-routing-key": unique}
    arguments |= {"x-dead-letter-exchange": f"dlx.{unique}", "x-overflow": "reject-publish"}
    arguments |= {"x-dead-letter-strategy": "at-least-once"}
    channel.queue_declare(unique, durable=True, arguments=arguments)
    ran: list[int] = []
    harness.actor(ran.append, actor_name="collect").send(1)
    harness.start()
    wait_until(lambda: ran == [1])
