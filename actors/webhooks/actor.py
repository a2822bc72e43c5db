"""``webhook.send``: the job and the actor that signs and sends it."""

from __future__ import annotations

import hashlib
import re
from asyncio import CancelledError, to_thread
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import dramatiq
import orjson
from dramatiq.middleware import Middleware
from pydantic import (
    ConfigDict,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 resolves the base's annotations here
    field_validator,
    model_validator,
)

from ...brokers import get_broker
from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import FormrelayError, InvalidJob, SinkPermanent, describe
from ...core.redaction import SHORTEST, redacted
from ...core.request_times import count_request, result_of
from ...core.signing import check_secrets, sign, sign_like_stripe
from ...core.trace_context import TRACEPARENT, current_trace
from ...sinks.http import (
    HttpNotAllowed,
    Response,
    check_headers,
    check_url,
    known_media_type,
    raise_for_status,
)
from ..job import job_actor
from ..model import Job, JobModel, Json
from ..payload_secrets import SECRET, SECRET_URL
from . import schema as wire
from .delivery_log import delivery_log
from .resources import egress, max_deliveries_in_flight, registry_sync

#: Maximum number of characters of a response that WEBHOOK_KEEP_RESPONSE_TEXT keeps.
_MAX_RESPONSE_CHARACTERS = 2048
_URL_SEPARATORS = re.compile("[/?&=]")

T = TypeVar("T")


def _checked(value: T, check: Callable[[], object]) -> T:
    """Return ``value``; turn an error of ``check`` into the ValueError that pydantic expects."""
    try:
        check()
    except FormrelayError as error:
        raise ValueError(str(error)) from None
    return value


def _check_url(url: str) -> None:
    try:
        check_url(url, allow_http=get_settings().webhooks.allow_http)
    except HttpNotAllowed as error:
        error.reword(f"{error}: set WEBHOOK_ALLOW_HTTP=1 to allow http")
        raise


class Webhook(JobModel):
    """One webhook to one endpoint."""

    # The checks below, as far as JSON Schema can express them.
    model_config = ConfigDict(json_schema_extra=wire.WEBHOOK)

    url: Annotated[str, SECRET_URL] = Field(
        max_length=8_000, description=wire.URL_HELP, json_schema_extra=wire.URL
    )
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, Annotated[str, SECRET]] = Field(
        default_factory=dict, description=wire.HEADERS_HELP, json_schema_extra=wire.HEADERS
    )
    body: Json = Field(description="Any JSON. The signature covers its exact bytes.")
    secret: Annotated[str, SECRET] | None = Field(
        None, repr=False, description=wire.SECRET_HELP, json_schema_extra=wire.SECRET
    )
    secrets: list[Annotated[str, SECRET]] | None = Field(
        None, repr=False, description=wire.SECRETS_HELP, json_schema_extra=wire.SECRETS
    )
    id: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The `webhook-id`, equal at each attempt. Default: derived from the job's id.",
        json_schema_extra=wire.ID,
    )
    signature_style: Literal["standard", "stripe"] = Field("standard", description=wire.STYLE_HELP)
    endpoint_id: str | None = None

    @field_validator("url")
    @classmethod
    def _url_is_allowed(cls, url: str) -> str:
        return _checked(url, lambda: _check_url(url))

    @field_validator("headers")
    @classmethod
    def _headers_are_allowed(cls, headers: dict[str, str]) -> dict[str, str]:
        return _checked(headers, lambda: check_headers(headers))

    @model_validator(mode="after")
    def _can_be_signed(self) -> Webhook:
        if self.secret is not None and self.secrets is not None:
            raise ValueError("expected secret or secrets, got both")
        return _checked(self, lambda: check_secrets(signing_secrets(self)))

    @field_validator("id")
    @classmethod
    def _id_can_be_signed(cls, id: str | None) -> str | None:
        if id is not None and ("." in id or not id.isascii() or not id.isprintable()):
            raise ValueError("expected printable ASCII without '.'")
        return id


def signing_secrets(webhook: Webhook) -> list[str]:
    """The secrets that sign the webhook, the current secret first."""
    return webhook.secrets or ([webhook.secret] if webhook.secret is not None else [])


def webhook_id(job: Job[Webhook]) -> str:
    """The ``webhook-id`` header: the same on every attempt."""
    return job.payload.id or f"msg_{job.message_id}"


def signatures(job: Job[Webhook], body: bytes) -> dict[str, str]:
    """The signature headers of this attempt."""
    webhook, now = job.payload, int(SYSTEM_CLOCK.time())
    secrets = signing_secrets(webhook)
    headers = sign(secrets, webhook_id=webhook_id(job), timestamp=now, body=body)
    if webhook.signature_style == "stripe":
        headers |= sign_like_stripe(secrets, timestamp=now, body=body)
    return headers


def trace_header() -> dict[str, str]:
    """The header ``traceparent`` of this attempt. What tracestate holds is not for strangers."""
    trace = current_trace.get()
    if trace is None or not get_settings().webhooks.send_traceparent:
        return {}
    return {TRACEPARENT: trace.traceparent}


def endpoint_of(webhook: Webhook) -> str:
    """The id of the endpoint: ``endpoint_id``, otherwise a hash of the URL without its query."""
    if webhook.endpoint_id is not None:
        return webhook.endpoint_id
    return endpoint_of_url(webhook.url)


def endpoint_of_url(url: str) -> str:
    """The id of the endpoint of a URL without an ``endpoint_id``: a hash of it without its query.

    Raises:
        InvalidJob: the URL is invalid.
    """
    return _endpoint_id(url.partition("?")[0])


@lru_cache(maxsize=1024)
def _endpoint_id(url: str) -> str:
    # All spellings of a host are one endpoint. Only the host is rewritten: otherwise the ids of
    # endpoints that are already stored would change.
    given, checked = urlsplit(url), urlsplit(check_url(url, allow_http=True).url)
    if given.netloc != checked.netloc:
        url = given._replace(netloc=checked.netloc).geturl()
    return "url_" + hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


@job_actor(
    "webhook.send",
    schema=Webhook,
    worker=lambda settings: settings.webhooks,
    options=lambda settings: {
        "in_flight": max_deliveries_in_flight(settings),
        # So that slow endpoints do not delay others.
        "in_flight_total": 10 * max_deliveries_in_flight(settings),
    },
    middleware=lambda: _WorkerHooks(),
)
async def deliver_webhook(job: Job[Webhook]) -> None:
    """Sign the body and send it once; defer the job while its endpoint is busy or failing."""
    sync = registry_sync()
    if not sync.is_started:  # usually the worker has started it when it booted
        await to_thread(sync.start)
    async with sync.limiter.webhook_delivery(endpoint_of(job.payload)):
        await _deliver(job)


async def _deliver(job: Job[Webhook]) -> None:
    webhook = job.payload
    body = orjson.dumps(webhook.body)
    # In lower case: otherwise a caller's header could be sent in addition to ours.
    custom = {**trace_header(), **check_headers(webhook.headers)}
    headers = {"content-type": "application/json", **custom, **signatures(job, body)}
    started_at = SYSTEM_CLOCK.monotonic()
    response: Response | None = None
    try:
        response = await egress().send(webhook.method, webhook.url, headers, body)
        now, permanent = SYSTEM_CLOCK.time(), get_settings().webhooks.permanent_statuses
        raise_for_status(
            response.status, response.headers, now, permanent=permanent, body=response.body
        )
    except BaseException as error:
        # A stopping worker cancels its deliveries and defers their jobs: no endpoint has failed.
        if not (isinstance(error, CancelledError) and get_broker().is_stopping):
            _report(job, headers, response, error, started_at)
        raise
    _report(job, headers, response, None, started_at)


def _report(
    job: Job[Webhook],
    headers: Mapping[str, str],
    response: Response | None,
    error: BaseException | None,
    started_at: float,
) -> None:
    """Report an attempt to the endpoint registry, its log line and the delivery log.

    Args:
        headers: the request headers.
        started_at: monotonic seconds.
    """
    webhook, form_id = job.payload, job.metadata.form_id or ""
    host = check_url(webhook.url, allow_http=get_settings().webhooks.allow_http).host
    endpoint = endpoint_of(webhook)
    status = None if response is None else response.status
    registry_sync().add(endpoint, host, status=status, is_success=error is None, form_id=form_id)
    seconds = SYSTEM_CLOCK.monotonic() - started_at
    if response is not None:
        seconds = response.duration.total_seconds()
    if not isinstance(error, InvalidJob):  # nothing was sent
        count_request("webhook", "ok" if error is None else result_of(error), seconds)
    job.fields.update(
        webhook_id=webhook_id(job),
        endpoint=endpoint,
        host=host,
        status=status,
        duration_ms=round(seconds * 1000, 1),
        response=_body_summary(webhook, headers, response),
    )
    log = delivery_log()
    if log.is_enabled:
        log.add(_attempt_of(job, error), job)


def _attempt_of(job: Job[Webhook], error: BaseException | None) -> dict[str, Any]:
    """A :class:`.DeliveryAttempt` as JSON; the fields of the log line must be set."""
    fields = job.fields
    return {
        "webhookId": fields["webhook_id"],
        "messageId": job.message_id,
        "endpoint": fields["endpoint"],
        "host": fields["host"],
        "formId": job.metadata.form_id or "",
        "submissionId": job.metadata.submission_id or "",
        "attempt": job.attempt,
        "outcome": _outcome(error),
        "status": fields["status"] or 0,
        "durationMs": fields["duration_ms"],
        "error": "" if error is None else type(error).__name__,
        "message": "" if error is None else describe(error),
        "response": fields["response"],
        "at": SYSTEM_CLOCK.time(),
    }


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "delivered"
    return "refused" if isinstance(error, SinkPermanent | InvalidJob) else "failed"


def _body_summary(webhook: Webhook, headers: Mapping[str, str], response: Response | None) -> str:
    """Size and media type of a body; with WEBHOOK_KEEP_RESPONSE_TEXT its first characters."""
    if response is None or not response.body:
        return ""
    if get_settings().webhooks.keep_response_text:
        return _redacted_body(webhook, headers, response)
    media_type = known_media_type(response.headers.get("content-type", ""))
    return f"{len(response.body)} bytes of {media_type}"


def _redacted_body(webhook: Webhook, headers: Mapping[str, str], response: Response) -> str:
    """The first characters of a body, without exact copies of parts of the request."""
    text = response.body[: 4 * _MAX_RESPONSE_CHARACTERS].decode(errors="replace")
    if len(text) < SHORTEST:
        return text
    # A path may be as secret as a query, and servers quote it in a 404 response.
    path = webhook.url.partition("://")[2].partition("/")[2]
    values = [part for value in headers.values() for part in (value, *value.split())]
    request = (webhook.body, values, signing_secrets(webhook), path, _URL_SEPARATORS.split(path))
    return redacted(text, request, most=_MAX_RESPONSE_CHARACTERS)


class _WorkerHooks(Middleware):
    """Starts the registry sync when a worker boots; sends the last reports after its shutdown."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        queues = worker.consumer_whitelist
        if not queues or get_settings().webhooks.queue in queues:
            registry_sync().start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        for sync in registry_sync.made:
            sync.stop()
        for log in delivery_log.made:
            log.stop()
