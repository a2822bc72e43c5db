"""Acknowledgements are combined, and never include an unsettled message."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from formrelay.brokers.rabbitmq import codec
from formrelay.brokers.rabbitmq.subscription import Acks, Subscription


def test_consecutive_tags_are_one_acknowledgement() -> None:
    acks = Acks()
    for number in (2, 3, 1):
        acks.add(number)
    assert acks.frames(all=False) == codec.acknowledge(3, multiple=True)
    assert acks.frames(all=True) == b""


def test_a_tag_after_a_gap_waits_until_all_are_requested() -> None:
    acks = Acks()
    acks.add(3)
    assert acks.frames(all=False) == b""
    assert acks.frames(all=True) == codec.acknowledge(3)
    acks.add(1)
    acks.add(2)
    # Not 3: it is settled already, and RabbitMQ would close the channel.
    assert acks.frames(all=False) == codec.acknowledge(2, multiple=True)


@given(st.integers(1, 300), st.randoms(use_true_random=False), st.integers(1, 40))
def test_each_tag_is_acknowledged_once_and_not_before_it_is_added(
    count: int, chance: random.Random, step: int
) -> None:
    numbers = list(range(1, count + 1))
    chance.shuffle(numbers)
    acks, added, done = Acks(), set[int](), set[int]()
    for start in range(0, count, step):
        for number in numbers[start : start + step]:
            acks.add(number)
            added.add(number)
        for confirm in codec.FrameParser().feed(acks.frames(all=chance.random() < 0.3)):
            assert confirm.delivery_tag in added - done
            upto = {one for one in range(1, confirm.delivery_tag + 1) if one not in done}
            now = upto if confirm.multiple else {confirm.delivery_tag}
            assert now <= added
            done |= now
    for confirm in codec.FrameParser().feed(acks.frames(all=True)):
        done |= (
            set(range(1, confirm.delivery_tag + 1)) if confirm.multiple else {confirm.delivery_tag}
        )
    assert done == set(range(1, count + 1))


class Sent:
    """A connection that only records what is sent."""

    delivered = 0

    def __init__(self) -> None:
        self.data = b""

    def send(self, data: bytes) -> None:
        self.data += data


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_a_requeued_message_is_never_acknowledged(
    requeued: list[bool], chance: random.Random
) -> None:
    sent = Sent()
    subscription = Subscription(sent, "jobs", prefetch=8)  # type: ignore[arg-type]
    numbers = list(enumerate(requeued, 1))
    chance.shuffle(numbers)
    for number, is_requeued in numbers:
        (subscription.requeue if is_requeued else subscription.acknowledge)(number)
        if chance.random() < 0.2:
            subscription.flush(all=chance.random() < 0.3)
    subscription.flush(all=True)
    unsettled, done = set(range(1, len(requeued) + 1)), set[int]()
    for settled in codec.FrameParser().feed(sent.data):
        upto = {number for number in unsettled if number <= settled.delivery_tag}
        assert settled.delivery_tag in unsettled  # otherwise RabbitMQ would close the channel
        now = upto if settled.multiple else {settled.delivery_tag}
        unsettled -= now
        if settled.taken:
            done |= now
    assert done == {number for number, is_requeued in enumerate(requeued, 1) if not is_requeued}
    assert not unsettled
