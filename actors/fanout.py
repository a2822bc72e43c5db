"""Enqueues the webhooks and the event of a saved submission, partial or payment."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

from dramatiq import Message
from pydantic import (
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ..brokers import MessageTooLarge, get_broker
from ..core.errors import InvalidJob
from ..middleware.delivery import CAUSED_BY
from ..sinks.api import SubmissionWebhook
from .job import JobActor, job_actor
from .model import Job, JobModel
from .payload_secrets import SECRET, SECRET_URL
from .webhooks import deliver_webhook

logger = logging.getLogger("formrelay.webhooks")

#: Maximum number of characters of a URL in the dead letter of a refused job.
_MAX_URL = 200


class Outgoing(NamedTuple):
    """A job to enqueue, as plain JSON.

    Its id is derived from its subject, so a sender that is repeated enqueues the same job.

    Attributes:
        caused_by: id of the job of a batch that sends it; None: the job that runs.
    """

    actor: JobActor
    payload: dict[str, Any]
    metadata: dict[str, Any]
    caused_by: str | None = None


class WebhookEndpoint(JobModel):
    """An endpoint that gets the webhook of a submission or partial."""

    url: Annotated[str, SECRET_URL]
    id: str | None = Field(None, description="The id of the endpoint, part of the webhook-id.")
    secret: Annotated[str, SECRET] = Field(
        repr=False, description="`whsec_` and base64, or any text."
    )
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, Annotated[str, SECRET]] = Field(default_factory=dict)


def webhook_of(
    kind: str,
    subject: str,
    endpoint: WebhookEndpoint | SubmissionWebhook,
    body: dict[str, Any],
    metadata: dict[str, Any],
) -> Outgoing:
    """Make the webhook of a subject for one endpoint.

    Its id is a digest of both, so a repetition has the same webhook-id.

    Args:
        kind: start of its id.
        subject: the id of the submission, or id and revision of the partial.
    """
    digest = hashlib.sha256(f"{subject}\n{endpoint.id or endpoint.url}".encode()).hexdigest()
    return Outgoing(
        deliver_webhook,
        {
            "id": f"{kind}_{digest[:32]}",
            "url": endpoint.url,
            "method": endpoint.method,
            "headers": dict(endpoint.headers),
            "secret": endpoint.secret,
            "endpointId": endpoint.id or None,
            "body": body,
        },
        metadata,
    )


class RefusedJob(JobModel):
    """The summary of a job that no broker accepts, as the payload of its dead letter.

    Attributes:
        cause: why the broker does not accept the job.
        job: the name of its actor.
    """

    cause: str
    job: str
    id: str | None = None
    endpoint_id: str | None = None
    url: Annotated[str, SECRET_URL] | None = None


@job_actor(None, schema=RefusedJob, worker=lambda settings: settings.webhooks)
def refuse_job(job: Job[RefusedJob]) -> None:
    """Dead-letter a job that is too large or nested too deeply to be enqueued, with the cause."""
    raise InvalidJob(f"{job.payload.job}: {job.payload.cause}")


def fan_out(jobs: Iterable[Outgoing]) -> None:
    """Enqueue jobs. A bad job affects neither the other jobs nor the job that sends it.

    An invalid job is enqueued and dead-lettered by its own worker, so it can be replayed when
    the cause is removed (for example, ``WEBHOOK_ALLOW_HTTP`` is set). A job that is too large or
    too deeply nested for the broker is replaced by a dead letter of :func:`refuse_job`, which
    names the job and the cause.

    Raises:
        BrokerUnavailable, BrokerRefused: some of the jobs may have been enqueued.
    """
    get_broker().enqueue_many(_message(job) for job in jobs)


def _message(job: Outgoing) -> Message[Any]:
    call = {"payload": job.payload, "metadata": job.metadata}
    options: dict[str, Any] = {CAUSED_BY: job.caused_by} if job.caused_by else {}
    try:
        message = job.actor.message_with_options(kwargs=call, **options)
    except InvalidJob:
        message = job.actor.message_of(job.payload, job.metadata, **options)
    try:
        get_broker().check(message)
    except (InvalidJob, MessageTooLarge) as error:
        return refuse_job.message_of(_refused(job, str(error)), job.metadata, **options)
    return message


def _refused(job: Outgoing, cause: str) -> dict[str, Any]:
    name, payload = job.actor.actor_name, job.payload
    id, endpoint = payload.get("id"), payload.get("endpointId")
    logger.error(
        "could not enqueue a job",
        extra={"job": name, "webhook_id": id, "endpoint": endpoint, "error_message": cause},
    )
    url = str(payload.get("url") or "")[:_MAX_URL]
    refused = RefusedJob(cause=cause, job=name, id=id, endpoint_id=endpoint, url=url or None)
    return refused.wire()
