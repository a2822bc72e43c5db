"""An actor whose messages are dead-lettered, so that its queue is among the project's."""

import dramatiq


@dramatiq.actor(queue_name="dying")
def die(number: int, answer: str) -> None:
    raise AssertionError("a worker of the tests does that")
