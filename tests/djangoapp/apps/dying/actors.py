"""The actor whose messages are dead: its queue is one of the project's."""

import dramatiq


@dramatiq.actor(queue_name="dying")
def die(number: int, answer: str) -> None:
    raise AssertionError("a worker of the tests does that")
