"""``submission.save``: saves a submission in the Django API, then sends its webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import (
    AwareDatetime,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ..sinks.api import SubmissionWebhook
from .fanout import WebhookEndpoint, fan_out, webhook_of
from .job import job_actor
from .model import OFFSET, Answers, ApiId, Job, JobModel
from .resources import api, api_throttle


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
    if not endpoints:
        return
    form_id, submission_id = submission.form_id, submission.submission_id
    body = {
        "type": "submission.completed",
        "timestamp": submission.wire()["submittedAt"],
        "data": {
            "submissionId": submission_id,
            "formId": form_id,
            "answers": submission.answers,
        },
    }
    metadata = {"formId": form_id, "submissionId": submission_id}
    fan_out(webhook_of("sub", submission_id, endpoint, body, metadata) for endpoint in endpoints)
