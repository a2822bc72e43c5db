"""``payment.update``: what Stripe says of a submission's payment, into the Django API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 looks for the base's names here
)

from ..config import WorkerSettings, get_settings
from ..core.errors import InvalidJob, SinkTransient
from ..core.retry import RetryPolicy
from ..sinks.api import SavedSubmission
from .job import job_actor
from .model import ApiId, Job, JobModel
from .resources import api, api_throttle
from .submissions import Submission, tell_of

#: An event may come before its submission has been saved: it is tried for an hour or so.
_ATTEMPTS = 60

_STATUS = {
    "payment_intent.succeeded": "completed",
    "checkout.session.completed": "completed",
    "payment_intent.payment_failed": "payment_failed",
    "charge.refunded": "refunded",
}


class Metadata(JobModel):
    """What the form platform gave Stripe along with a payment."""

    submission_id: ApiId


class PaymentObject(JobModel):
    """The payment intent, checkout session or charge that an event is about."""

    metadata: Metadata

    def says(self, name: str) -> Any:
        """A field of Stripe's that travels along unchecked; None where it is not there."""
        return (self.model_extra or {}).get(name)


class EventData(JobModel):
    """What an event is about."""

    object: PaymentObject


class StripeEvent(JobModel):
    """An event as Stripe sends it (https://docs.stripe.com/api/events/object)."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal[
        "payment_intent.succeeded",
        "payment_intent.payment_failed",
        "checkout.session.completed",
        "charge.refunded",
    ]
    created: int = Field(ge=0, lt=2**63, description="Unix seconds.")
    data: EventData


def status_of(event: StripeEvent) -> str | None:
    """What an event makes of its submission; None for nothing.

    A checkout may be over and its payment under way (``payment_status`` is ``unpaid``, of a bank
    transfer, say), and a charge may be refunded in part.
    """
    about = event.data.object
    if event.type == "checkout.session.completed" and about.says("payment_status") == "unpaid":
        return None
    if event.type == "charge.refunded" and about.says("refunded") is False:
        return None
    return _STATUS[event.type]


class NotThereYet(SinkTransient):
    """The API has no such submission; it may come."""


def _may_retry(error: BaseException, attempt: int) -> bool:
    # What else fails has the attempts of every job of this worker.
    return isinstance(error, NotThereYet) or attempt <= get_settings().submissions.max_retries


def _policy(worker: WorkerSettings) -> RetryPolicy:
    return worker.policy().but(max_attempts=_ATTEMPTS, should_retry=_may_retry)


@job_actor(
    "payment.update",
    schema=StripeEvent,
    worker=lambda settings: settings.submissions,
    throttle=api_throttle,
    policy=_policy,
)
def update_payment(job: Job[StripeEvent]) -> None:
    """Tell the API, which knows older events from newer ones; webhooks when it is completed.

    A submission that is completed again, by an event that came twice, is told again, under the
    same webhook-ids.
    """
    event = job.payload
    status = status_of(event)
    if status is None:
        return
    id = event.data.object.metadata.submission_id
    saved = api().update_payment(id, status=status, event_id=event.id, created=event.created)
    if saved is None:
        raise NotThereYet(f"expected the API to have the submission of a {event.type}, it has not")
    if status == saved.status == "completed":
        whole = saved if saved.answers is not None else api().get_submission(id)
        if whole is not None:
            tell_of(_submission(whole), saved.webhooks)


def _submission(saved: SavedSubmission) -> Submission:
    values: dict[str, Any] = {
        "submissionId": saved.id,
        "formId": saved.form_id,
        "status": saved.status,
        "answers": saved.answers,
        "submittedAt": saved.submitted_at,
    }
    try:
        return Submission.model_validate(values)
    except ValueError:
        raise InvalidJob(
            "expected {id, formId, status, answers, submittedAt} of a submission from the API, "
            "got another shape: check its version"
        ) from None
