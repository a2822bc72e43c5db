"""Puts the messages back that a draining worker has received and not started.

Other workers run them while this one finishes its running messages, which may take minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.common import iter_queue

from ..middleware.work_queue import message_of

if TYPE_CHECKING:
    import dramatiq


def return_unstarted(worker: dramatiq.Worker) -> None:
    """Put back the messages that wait for a worker thread or for the async runner.

    The consumers put back the messages that they have not delivered.
    """
    for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]
        message = message_of(item)
        worker.consumers[message.queue_name].requeue_messages([message])
        worker.work_queue.task_done()
    broker: Any = worker.broker
    for queue, thread in list(worker.consumers.items()):
        if thread.consumer is not None and (waiting := broker.async_runner.take_back(queue)):
            thread.consumer.requeue(waiting)


def is_idle(worker: dramatiq.Worker) -> bool:
    """Whether no message runs or waits for a thread."""
    broker: Any = worker.broker
    return not worker.work_queue.unfinished_tasks and not broker.async_runner.running()
