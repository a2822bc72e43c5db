"""``payment.update``: reports Stripe's events of a payment to the Django API."""

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

#: About an hour: an event may arrive before its submission is saved.
_ATTEMPTS = 60

_STATUS = {
    "payment_intent.succeeded": "completed",
    "checkout.session.completed": "completed",
    "payment_intent.payment_failed": "payment_failed",
    "charge.refunded": "refunded",
}


class PaymentMetadata(JobModel):
    """The metadata that the form platform set on the payment."""

    submission_id: ApiId


class PaymentObject(JobModel):
    """The payment intent, checkout session or charge of an event."""

    metadata: PaymentMetadata

    def unchecked(self, name: str) -> Any:
        """A field of Stripe's that the schema does not check; None if it is missing."""
        return (self.model_extra or {}).get(name)


class EventData(JobModel):
    """The field ``data`` of an event."""

    object: PaymentObject


class StripeEvent(JobModel):
    """An event of Stripe (https://docs.stripe.com/api/events/object)."""

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
    """The payment status that an event sets on its submission; None for no change.

    A checkout may be completed while its payment is pending (``payment_status`` is ``unpaid``, for
    example for a bank transfer), and a charge may be refunded in part.
    """
    about = event.data.object
    if event.type == "checkout.session.completed" and about.unchecked("payment_status") == "unpaid":
        return None
    if event.type == "charge.refunded" and about.unchecked("refunded") is False:
        return None
    return _STATUS[event.type]


class SubmissionMissing(SinkTransient):
    """The API does not have the submission yet."""


def _may_retry(error: BaseException, attempt: int) -> bool:
    # Other errors have the usual number of attempts.
    return isinstance(error, SubmissionMissing) or attempt <= get_settings().submissions.max_retries


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
    """Report the status to the API, and send webhooks when the submission is completed.

    The API ignores older events. An event that arrives twice sends the webhooks twice, with the
    same webhook-ids.
    """
    event = job.payload
    status = status_of(event)
    if status is None:
        return
    id = event.data.object.metadata.submission_id
    saved = api().update_payment(id, status=status, event_id=event.id, created=event.created)
    if saved is None:
        raise SubmissionMissing(f"expected the API to have the submission of {event.type}, got 404")
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
            "expected {id, formId, status, answers, submittedAt} from the API, got JSON of another "
            "shape: check the API's version"
        ) from None
