"""``submission.save``: saves a submission in the Django API, then sends its webhooks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ..sinks.api import SubmissionWebhook
from .fanout import Outgoing, fan_out
from .job import job_actor
from .model import OFFSET, Answers, ApiId, Job, JobModel
from .resources import api, api_throttle
from .webhooks import deliver_webhook


class WebhookEndpoint(JobModel):
    """An endpoint that gets the webhook of a submission or partial."""

    url: str
    id: str | None = Field(None, description="The id of the endpoint, part of the webhook-id.")
    secret: str = Field(repr=False, description="`whsec_` and base64, or any text.")
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict)


class Submission(JobModel):
    """A filled-in form."""

    submission_id: ApiId = Field(description="The API saves each id once.")
    form_id: str = Field(min_length=1, max_length=200)
    status: Literal["completed", "pending_payment", "draft"]
    answers: Answers
    submitted_at: AwareDatetime = Field(
        description="ISO 8601 with an offset.", json_schema_extra={"pattern": OFFSET}
    )
    webhooks: list[WebhookEndpoint] | None = Field(
        None,
        description="Endpoints that get a webhook when it is completed; default: the endpoints in "
        "the API's response.",
    )


def webhook_job(submission: Submission, endpoint: WebhookEndpoint | SubmissionWebhook) -> Outgoing:
    """Make the webhook of a submission for one endpoint.

    Its id is a digest of both, so a repetition has the same webhook-id.
    """
    name = endpoint.id or endpoint.url
    digest = hashlib.sha256(f"{submission.submission_id}\n{name}".encode()).hexdigest()
    return Outgoing(
        deliver_webhook,
        {
            "id": f"sub_{digest[:32]}",
            "url": endpoint.url,
            "method": endpoint.method,
            "headers": dict(endpoint.headers),
            "secret": endpoint.secret,
            "endpointId": endpoint.id or None,
            "body": {
                "type": "submission.completed",
                "timestamp": submission.wire()["submittedAt"],
                "data": {
                    "submissionId": submission.submission_id,
                    "formId": submission.form_id,
                    "answers": submission.answers,
                },
            },
        },
        {"formId": submission.form_id, "submissionId": submission.submission_id},
    )


@job_actor(
    "submission.save",
    schema=Submission,
    worker=lambda settings: settings.submissions,
    throttle=api_throttle,
)
def save_submission(job: Job[Submission]) -> None:
    """Save a submission in the API, then send its webhooks."""
    submission = job.payload
    data = submission.wire()
    data.pop("webhooks", None)  # contains secrets, which the API must not get
    # The previous attempt may have saved it, so look it up first.
    saved = api().get_submission(submission.submission_id) if job.attempt > 1 else None
    saved = saved or api().save_submission(data)
    if saved.status == "completed":
        send_webhooks(submission, saved.webhooks)


def send_webhooks(submission: Submission, from_api: Sequence[SubmissionWebhook]) -> None:
    """Send the webhooks of a completed submission.

    Args:
        submission: the completed submission.
        from_api: the endpoints in the API's response, for a submission that names none.

    Raises:
        BrokerUnavailable, BrokerRefused: some webhooks may have been sent.
    """
    endpoints = from_api if submission.webhooks is None else submission.webhooks
    fan_out(webhook_job(submission, endpoint) for endpoint in endpoints)
