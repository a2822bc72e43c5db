"""Enqueues messages on Redis: one atomic call, repeated once if the connection was dropped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import redis

from ...state.redis.client import repeated
from ...state.redis.connection import answer_timeout, translated
from ..envelope import Envelope
from ..errors import BrokerRefused, NotReplicated
from .commands import QueueCommands

Args = list[str | bytes | int]


class Enqueue:
    """Writes messages, and waits for replicas if configured.

    If the connection was dropped, the call is repeated once on a new connection. The script then
    skips the messages that the first call has written. A message that was done between the two
    calls runs again.

    Args:
        replicas: number of replicas that must have the messages.
        timeout: how long to wait for the replicas.
    """

    def __init__(self, commands: QueueCommands, replicas: int, timeout: timedelta) -> None:
        self._commands = commands
        self.replicas = replicas
        longest = answer_timeout(commands.client) * 0.8
        self._wait_ms = max(1, int(min(timeout.total_seconds(), longest) * 1000))

    def __call__(self, envelopes: Sequence[Envelope], *, is_repetition: bool = False) -> None:
        """Write messages of any queues in one atomic step.

        Raises:
            BrokerUnavailable: the messages may or may not be written.
            BrokerRefused: the messages of at least one queue are not written.
            NotReplicated: the messages are written, and may be lost in a failover.
        """
        by_queue: dict[str, Args] = {}
        for envelope in envelopes:
            due = "" if envelope.due is None else envelope.due
            priority = "" if envelope.priority is None else envelope.priority
            args = by_queue.setdefault(envelope.message.queue_name, [])
            args += (envelope.message.message_id, due, priority, envelope.body)
        with translated(self._commands.where):
            repeated(lambda again: self._write(by_queue, again or is_repetition))

    def _write(self, by_queue: dict[str, Args], is_repetition: bool) -> None:
        now = self._commands.now()
        script = self._commands.scripts["enqueue"]
        calls = [
            (self._commands.keys.of(queue), [now, int(is_repetition), *args])
            for queue, args in by_queue.items()
        ]
        if len(calls) == 1 and not self.replicas:
            script(*calls[0])
            return
        # A pipeline, since WAIT must follow EXEC on the same connection. EVAL instead of EVALSHA,
        # since one unknown script would fail while the other calls succeed.
        pipeline = self._commands.client.pipeline(transaction=False)
        if len(calls) > 1:
            pipeline.execute_command("MULTI")
        for keys, args in calls:
            pipeline.eval(script.script, len(keys), *keys, *args)
        if len(calls) > 1:
            pipeline.execute_command("EXEC")
        if self.replicas:
            pipeline.execute_command("WAIT", self.replicas, self._wait_ms)
        answers = pipeline.execute(raise_on_error=False)
        self._check(answers, [len(args) // 4 for args in by_queue.values()])
        if self.replicas and answers[-1] < self.replicas:
            raise NotReplicated(
                f"expected {self.replicas} replicas of Redis at {self._commands.where} to have "
                f"the message within {self._wait_ms} ms, {answers[-1]} have it: it is on the "
                "master, will run, and can be lost if the master fails now; sent again it may run "
                "twice"
            )

    def _check(self, answers: list[Any], counts: list[int]) -> None:
        """Raise the first error in the answers."""
        error = next(filter(is_error, answers), None)
        results = next((answer for answer in answers if isinstance(answer, list)), None)
        if error is None and results is not None:
            # A transaction has no rollback: one queue may fail while the others succeed.
            error = next(filter(is_error, results), None)
            if error is not None:
                written = zip(results, counts, strict=True)
                count = sum(n for result, n in written if not is_error(result))
                code = str(error).partition(" ")[0]
                raise BrokerRefused(
                    f"Redis at {self._commands.where} refused the messages for one queue ({code}); "
                    f"{count} messages for other queues are enqueued"
                )
        if error is not None:
            raise error


def is_error(answer: Any) -> bool:
    """Whether an answer of a pipeline is an error."""
    return isinstance(answer, redis.RedisError)
