"""``email.send``: the actor."""

from __future__ import annotations

from datetime import timedelta

import dramatiq
from dramatiq.middleware import Middleware

from ..job import job_actor
from ..model import Job
from ..progress import Progress
from ..resources import smtp_throttle
from .schema import EmailJob, email_to_wire

#: Four minutes until the end of the e-mail is sent, and ten for the server's answer to it.
_TIME_LIMIT = timedelta(seconds=890)


def _progress(job: Job[EmailJob]) -> Progress | None:
    from .progress import progress_of_email

    return progress_of_email(job)


@job_actor(
    "email.send",
    schema=EmailJob,
    worker=lambda settings: settings.emails,
    to_wire=email_to_wire,
    throttle=smtp_throttle,
    options=lambda _: {"time_limit": int(_TIME_LIMIT.total_seconds() * 1000)},
    middleware=lambda: _WorkerHooks(),
    progress=_progress,
)
def send_email(job: Job[EmailJob]) -> None:
    """Send an e-mail to the recipients that do not have it yet."""
    from .deliver import deliver

    deliver(job)


class _WorkerHooks(Middleware):
    """Closes the connections when a worker has shut down."""

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        from .resources import email_resources

        for resources in email_resources.forget():
            resources.pool.close()
            resources.renewal.stop()
