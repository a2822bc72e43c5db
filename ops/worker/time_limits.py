"""Compares the time limits of actors with the time after which the broker redelivers a message."""

from __future__ import annotations

from collections.abc import Iterator

from dramatiq.middleware import TimeLimit

from ...brokers import RelayBroker


def exceeding_time_limits(broker: RelayBroker) -> Iterator[str]:
    """Yield a sentence for each declared actor whose jobs may run for longer than the broker waits.

    A message may wait in the worker for as long as the job before it runs, so the limit is half
    of ``consumer_timeout``.
    """
    timeout = broker.options.consumer_timeout
    if timeout is None:
        return
    longest = timeout.total_seconds() / 2
    default = next(
        (each.time_limit for each in broker.middleware if isinstance(each, TimeLimit)), float("inf")
    )
    for name, actor in sorted(broker.actors.items()):
        limit = actor.options.get("time_limit")
        seconds = (default if limit is None else limit) / 1000
        if seconds > longest:
            yield (
                f"expected the time_limit of {name} to be at most {longest:g} s, half of "
                f"RabbitMQ's consumer_timeout ({timeout.total_seconds():g} s), got {seconds:g} s: "
                "a longer job is started again while it still runs; lower time_limit, or raise "
                "consumer_timeout on the server and RABBITMQ_CONSUMER_TIMEOUT_SECONDS"
            )
