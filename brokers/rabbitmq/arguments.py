"""Arguments without which quorum queues lose messages."""

from __future__ import annotations

#: Without it RabbitMQ may drop a message between two quorum queues.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

#: RabbitMQ 4 dead-letters, or drops, a message that was put back 20 times, unless the queue says
#: otherwise: a dead letter is put back after each look at it, a job when its worker stops or its
#: queue is paused. -1, RabbitMQ's own word for "never", would drop at once in 3.10.
PUT_BACK_OFTEN = {"x-delivery-limit": 2**31 - 1}
