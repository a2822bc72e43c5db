"""Threads that publish at the same time share writes, and an error of one fails no other."""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import dramatiq
import pytest
from dramatiq.middleware import TimeLimitExceeded

from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.rabbitmq import client as client_module
from formrelay.brokers.rabbitmq import codec, publish_call
from formrelay.brokers.rabbitmq import group_commit as module
from formrelay.brokers.rabbitmq.connection import Connection
from formrelay.brokers.rabbitmq.errors import NoAnswer
from formrelay.brokers.rabbitmq.group_commit import GroupCommit, SharedFailure
from formrelay.brokers.rabbitmq.publish_call import Publication, PublishCall
from tests.support.harness import Harness
from tests.support.threads import at_once
from tests.support.waiting import wait_until

SECONDS = 60.0


def a_call() -> PublishCall:
    return PublishCall([Publication(None, "", "queue", b"", b"")])


class Sends:
    """A function that sends, and waits for the test before each write ends."""

    def __init__(self) -> None:
        self.groups: list[list[PublishCall]] = []
        self.goes_on = threading.Semaphore(0)
        self.errors: list[BaseException] = []

    def __call__(self, *calls: PublishCall) -> None:
        self.groups.append(list(calls))
        self.goes_on.acquire()
        if self.errors:
            raise self.errors.pop()

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.groups]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
def sends() -> Sends:
    return Sends()


@pytest.fixture(autouse=True)
def one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second thread wait already."""
    monkeypatch.setattr(module, "_MAX_WRITES", 1)


@pytest.fixture
def commit() -> GroupCommit:
    return GroupCommit()


def begin(commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor, count: int) -> Any:
    """Let one thread write, and ``count`` threads wait for it."""
    first = threads.submit(commit.send, a_call(), sends)
    wait_until(lambda: len(sends.groups) == 1)
    others = [threads.submit(commit.send, a_call(), sends) for _ in range(count)]
    wait_until(lambda: len(commit._untaken()) == count)
    return first, others


def test_threads_that_wait_share_the_next_write(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor
) -> None:
    first, others = begin(commit, sends, threads, 7)
    sends.goes_on.release(2)
    for each in (first, *others):
        each.result(SECONDS)
    assert sends.sizes == [1, 7]


def test_some_threads_write_at_the_same_time(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WRITES", 3)
    calls = [threads.submit(commit.send, a_call(), sends) for _ in range(8)]
    wait_until(lambda: len(sends.groups) == 3 and len(commit._untaken()) == 5)
    sends.goes_on.release(4)
    for each in calls:
        each.result(SECONDS)
    assert sends.sizes == [1, 1, 1, 5]


def test_many_threads_send_each_message_once(threads: ThreadPoolExecutor) -> None:
    """Several writes at a time, whose groups must not overlap."""
    lock, sent, commit = threading.Lock(), Counter[PublishCall](), GroupCommit()

    def write(*calls: PublishCall) -> None:
        with lock:
            sent.update(calls)

    def send(_number: int) -> None:
        for _ in range(100):
            commit.send(a_call(), write)

    with pytest.MonkeyPatch.context() as several:
        several.setattr(module, "_MAX_WRITES", 3)
        list(threads.map(send, range(16)))
    assert sent.total() == 1_600
    assert max(sent.values()) == 1


def test_a_write_has_a_maximum_number_of_messages(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CALLS", 3)
    first, others = begin(commit, sends, threads, 7)
    sends.goes_on.release(4)
    for each in (first, *others):
        each.result(SECONDS)
    assert sends.sizes == [1, 3, 3, 1]


def test_each_call_of_a_write_that_failed_is_to_be_sent_alone(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor
) -> None:
    first, others = begin(commit, sends, threads, 3)
    sends.errors = [BrokerUnavailable("connection lost"), BrokerRefused("too large")]
    sends.goes_on.release(2)
    with pytest.raises(BrokerRefused, match="too large"):
        first.result(SECONDS)  # it was sent alone already
    for each in others:
        with pytest.raises(SharedFailure):
            each.result(SECONDS)


def test_all_calls_of_a_write_that_is_not_answered_fail_with_it(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor
) -> None:
    first, others = begin(commit, sends, threads, 3)
    sends.goes_on.release()
    first.result(SECONDS)
    wait_until(lambda: len(sends.groups) == 2)
    sends.errors = [NoAnswer("no answer")]
    sends.goes_on.release()
    for each in others:
        with pytest.raises(NoAnswer, match="no answer"):
            each.result(SECONDS)
    sends.goes_on.release()
    commit.send(a_call(), sends)  # the next call tries again


def test_calls_that_waited_for_most_of_a_time_out_fail_with_it(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise their own writes would take a second one."""
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    first, others = begin(commit, sends, threads, 3)
    now = 9.0
    late = threads.submit(commit.send, a_call(), sends)
    wait_until(lambda: len(commit._untaken()) == 4)
    now = 10.0
    sends.errors = [NoAnswer("no answer")]
    sends.goes_on.release()
    for each in (first, *others):
        with pytest.raises(NoAnswer, match="no answer"):
            each.result(SECONDS)
    sends.goes_on.release()
    late.result(SECONDS)
    assert sends.sizes == [1, 1]


def test_an_interrupt_of_the_thread_that_writes_fails_no_other_thread(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor
) -> None:
    first, others = begin(commit, sends, threads, 3)
    sends.errors = [TimeLimitExceeded()]
    sends.goes_on.release(2)
    with pytest.raises(TimeLimitExceeded):
        first.result(SECONDS)
    for each in others:
        each.result(SECONDS)


def interruptions(code: CodeType) -> set[int]:
    """The offsets at which Python may raise an error of another thread.

    It looks for one when a function begins, after a call, and when a loop begins again.
    """
    steps = list(dis.get_instructions(code))
    calls = ("RESUME", "CALL", "CALL_FUNCTION_EX")
    after_calls = {step.offset for before, step in pairwise(steps) if before.opname in calls}
    return after_calls | {step.argval for step in steps if step.opname == "JUMP_BACKWARD"}


def send_interrupted(commit: GroupCommit, write: Callable[..., None], number: int) -> bool:
    """Send a call that is interrupted at the ``number``-th moment; False if it ends before."""
    moments: dict[CodeType, set[int]] = {}
    left = number

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if frame.f_code not in moments:
            moments[frame.f_code] = interruptions(frame.f_code)
        if event == "opcode" and frame.f_lasti in moments[frame.f_code]:
            left -= 1
            if left == 0:
                raise TimeLimitExceeded
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(TimeLimitExceeded, SharedFailure):
            commit.send(a_call(), write)
    finally:
        sys.settrace(before)
    return left <= 0


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="it knows the bytecode of Python 3.11 only")
@pytest.mark.parametrize("leads", [True, False])
def test_a_thread_that_is_interrupted_at_any_moment_stops_no_other_thread(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, leads: bool
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.002)
    count = 1
    while interrupt_and_go_on(threads, count, leads=leads):
        count += 1
    assert count > 20


def interrupt_and_go_on(threads: ThreadPoolExecutor, number: int, *, leads: bool) -> bool:
    """Interrupt one of several threads; False if it ends before the ``number``-th moment."""
    commit, sends = GroupCommit(), Sends()
    first = []
    if not leads:
        first = [threads.submit(commit.send, a_call(), sends)]
        wait_until(lambda: sends.groups)
    victim = threads.submit(send_interrupted, commit, sends, number)
    wait_until(lambda: victim.done() or (sends.groups if leads else len(commit._untaken()) == 1))
    others = [threads.submit(commit.send, a_call(), sends) for _ in range(3)]
    sends.goes_on.release(20)
    for each in (*first, *others, threads.submit(commit.send, a_call(), sends)):
        error = each.exception(SECONDS)
        assert error is None or isinstance(error, SharedFailure)
    is_interrupted = victim.result(SECONDS)
    commit.send(a_call(), sends)
    assert not commit._untaken()
    return is_interrupted


def test_a_message_that_was_confirmed_before_the_write_failed_is_sent(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor
) -> None:
    first, others = begin(commit, sends, threads, 3)
    sends.goes_on.release()
    first.result(SECONDS)
    wait_until(lambda: len(sends.groups) == 2)
    sends.groups[1][1].waiting.clear()
    sends.errors = [NoAnswer("no answer")]
    sends.goes_on.release()
    outcomes = [each.exception(SECONDS) for each in others]
    assert sorted(map(str, outcomes)) == ["None", "no answer", "no answer"]


def test_a_thread_does_not_wait_for_ever_for_another(
    commit: GroupCommit, sends: Sends, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    first = threads.submit(commit.send, a_call(), sends)
    wait_until(lambda: len(sends.groups) == 1)
    with pytest.raises(NoAnswer, match=r"within 0\.2 s"):
        commit.send(a_call(), sends)
    assert len(commit._waiting) == 1
    sends.goes_on.release()
    first.result(SECONDS)


# -- with RabbitMQ -------------------------------------------------------------------------------

with_rabbitmq = pytest.mark.rabbitmq


def test_a_send_of_a_signal_handler_does_not_wait_for_its_own_thread(commit: GroupCommit) -> None:
    sent: list[str] = []

    def write(call: PublishCall) -> None:
        sent.append("outer")
        commit.send(a_call(), lambda _: sent.append("inner"))  # as a handler in this moment

    commit.send(a_call(), write)
    assert sent == ["outer", "inner"]


@with_rabbitmq
def test_publishing_no_message_does_nothing(harness: Harness) -> None:
    harness.broker.client.publish([])  # type: ignore[attr-defined]


@with_rabbitmq
def test_eight_threads_use_few_writes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    publish = publish_call.publish_and_confirm

    def counted(connection: Connection, calls: Any) -> None:
        writes.append(len(calls))
        publish(connection, calls)

    monkeypatch.setattr(client_module, "publish_and_confirm", counted)
    actor = harness.actor(print, actor_name="collect")
    at_once(lambda _: [actor.send(number) for number in range(50)], range(8))
    assert harness.broker.counts(harness.queue).waiting == 400
    assert sum(writes) == 400
    assert len(writes) < 200
    assert len(harness.broker.client._idle) <= 2  # type: ignore[attr-defined]


def hold_first(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the first write wait until the returned function is called."""
    client: Any = harness.broker.client  # type: ignore[attr-defined]
    send, goes_on, is_first = client._send, threading.Event(), [True]

    def wait(*calls: PublishCall) -> None:
        if is_first and is_first.pop():
            goes_on.wait(SECONDS)
        send(*calls)

    monkeypatch.setattr(client, "_send", wait)
    return goes_on.set


def group_commit(harness: Harness) -> GroupCommit:
    client: Any = harness.broker.client  # type: ignore[attr-defined]
    found: GroupCommit = wait_until(lambda: client._group_commits.get(harness.queue))
    return found


def at_the_same_time(
    harness: Harness,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    *calls: Callable[[], Any],
) -> list[Future[Any]]:
    """Make calls of which all but the first share one write."""
    go_on = hold_first(harness, monkeypatch)
    first = threads.submit(calls[0])
    commit = group_commit(harness)
    wait_until(lambda: commit._leaders)
    others = [threads.submit(call) for call in calls[1:]]
    wait_until(lambda: len(commit._untaken()) == len(others))
    go_on()
    return [first, *others]


@with_rabbitmq
@pytest.mark.parametrize("loss", ["a deleted queue", "a lost connection"])
def test_a_failed_write_loses_no_message(
    harness: Harness,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    channel: Any,
    loss: str,
) -> None:
    actor = harness.actor(print, actor_name="collect")
    actor.send(0)
    if loss == "a deleted queue":
        channel.queue_delete(harness.queue)
    else:
        publish, lost = Connection.publish, []

        def lose(self: Connection, messages: Any) -> None:
            if len(messages) > 1 and not lost:
                lost.append(True)
                self._socket.shutdown(2)
            publish(self, messages)

        monkeypatch.setattr(Connection, "publish", lose)
    calls = [lambda number=number: actor.send(number) for number in range(1, 6)]
    for each in at_the_same_time(harness, threads, monkeypatch, *calls):
        each.result(SECONDS)
    kept = 0 if loss == "a deleted queue" else 1
    assert harness.broker.counts(harness.queue).waiting == 5 + kept


@with_rabbitmq
def test_a_refused_message_fails_its_own_call_alone(
    harness: Harness, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = harness.actor(print, actor_name="collect")
    actor.send(0)
    client: Any = harness.broker.client  # type: ignore[attr-defined]

    def publish_to_nowhere() -> None:
        client.publish([Publication(harness.queue, "no exchange", "", codec.properties("1"), b"")])

    good = [lambda number=number: actor.send(number) for number in range(1, 5)]
    first, refused, *others = at_the_same_time(
        harness, threads, monkeypatch, good[0], publish_to_nowhere, *good[1:]
    )
    with pytest.raises(BrokerRefused, match="no exchange"):
        refused.result(SECONDS)
    for each in (first, *others):
        each.result(SECONDS)
    # RabbitMQ may have taken messages of the failed write, which were then sent again.
    assert harness.broker.counts(harness.queue).waiting >= 5


@with_rabbitmq
def test_a_queue_that_does_not_answer_delays_no_send_to_another(
    harness: Harness, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = harness.actor(print, actor_name="collect")
    other = dramatiq.actor(
        print, broker=harness.broker, actor_name="other", queue_name=f"{harness.queue}.other"
    )
    go_on = hold_first(harness, monkeypatch)
    held = threads.submit(actor.send, 1)
    commit = group_commit(harness)
    wait_until(lambda: commit._leaders)
    other.send(2)
    assert not held.done()
    go_on()
    held.result(SECONDS)


@with_rabbitmq
def test_a_child_process_does_not_wait_for_the_threads_of_its_parent(
    harness: Harness, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = harness.actor(print, actor_name="collect")
    go_on = hold_first(harness, monkeypatch)
    first = threads.submit(actor.send, 1)
    commit = group_commit(harness)
    wait_until(lambda: commit._leaders)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            monkeypatch.setattr(module, "_WAIT_SECONDS", 10.0)
            actor.send(2)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    go_on()
    first.result(SECONDS)
    assert harness.broker.counts(harness.queue).waiting == 2


@with_rabbitmq
def test_a_connection_that_was_idle_for_seconds_is_not_checked_before_a_send(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[Any] = []
    probe = Connection.probe

    def counted(self: Connection, exchanges: Any) -> None:
        probes.append(exchanges)
        probe(self, exchanges)

    monkeypatch.setattr(Connection, "probe", counted)
    actor = harness.actor(print, actor_name="collect")
    actor.send(1)  # a new connection is checked
    (connection,) = harness.broker.client._idle  # type: ignore[attr-defined]
    connection.received_at -= 5.0
    actor.send(2)
    assert len(probes) == 1
    connection.received_at -= 30.0
    actor.send(3)
    assert len(probes) == 2
    assert harness.broker.counts(harness.queue).waiting == 3
