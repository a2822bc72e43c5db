"""Arguments without which quorum queues lose messages."""

from __future__ import annotations

#: Without it RabbitMQ may drop a message between two quorum queues.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

#: To look at a message is to fetch it and to put it back. RabbitMQ 4 drops what was put back
#: 20 times, unless it is told otherwise; -1, its own word for that, would drop at once in 3.10.
LOOKED_AT_OFTEN = {"x-delivery-limit": 2**31 - 1}
