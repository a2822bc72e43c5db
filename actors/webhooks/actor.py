"""``webhook.send``: the job and the actor that signs and sends it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, TypeVar
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

from ...config import get_settings
from ...core.clock import SYSTEM_CLOCK
from ...core.errors import FormrelayError, InvalidJob, SinkPermanent, describe
from ...core.redaction import SHORTEST, redacted
from ...core.signing import check_secrets, sign, sign_like_stripe
from ...sinks.http import (
    Response,
    check_headers,
    check_url,
    classify_status,
    known_media_type,
)
from ..job import job_actor
from ..model import Job, JobModel, Json
from . import schema as wire
from .delivery_log import delivery_log
from .resources import deliveries_at_a_time, egress, registry_sync

#: Maximum number of characters kept of a response, if WEBHOOK_KEEP_RESPONSE_TEXT is set.
_MOST_OF_A_RESPONSE = 2048
_ADDRESS_PARTS = re.compile("[/?&=]")


T = TypeVar("T")


def _checked(value: T, check: Callable[[], object]) -> T:
    """Return ``value``; turn an error of ``check`` into the ValueError that pydantic expects."""
    try:
        check()
    except FormrelayError as error:
        raise ValueError(str(error)) from None
    return value


class Webhook(JobModel):
    """One webhook to one endpoint."""

    # The checks below, as far as JSON Schema can express them.
    model_config = ConfigDict(json_schema_extra=wire.WEBHOOK)

    url: str = Field(max_length=8_000, description=wire.URL_IS, json_schema_extra=wire.URL)
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = Field(
        default_factory=dict, description=wire.HEADERS_ARE, json_schema_extra=wire.HEADERS
    )
    body: Json = Field(description="Any JSON; its bytes are what is signed.")
    secret: str | None = Field(
        None, repr=False, description=wire.SECRET_IS, json_schema_extra=wire.SECRET
    )
    secrets: list[str] | None = Field(
        None, repr=False, description=wire.SECRETS_ARE, json_schema_extra=wire.SECRETS
    )
    id: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The webhook-id, the same at each attempt; default: made of the job's id.",
        json_schema_extra=wire.ID,
    )
    signature_style: Literal["standard", "stripe"] = Field("standard", description=wire.STYLE_IS)
    endpoint_id: str | None = None

    @field_validator("url")
    @classmethod
    def _url_is_allowed(cls, url: str) -> str:
        return _checked(url, lambda: check_url(url, allow_http=get_settings().webhooks.allow_http))

    @field_validator("headers")
    @classmethod
    def _headers_are_ours_to_send(cls, headers: dict[str, str]) -> dict[str, str]:
        return _checked(headers, lambda: check_headers(headers))

    @model_validator(mode="after")
    def _can_be_signed(self) -> Webhook:
        if self.secret is not None and self.secrets is not None:
            raise ValueError("expected secret or secrets, got both")
        return _checked(self, lambda: check_secrets(keys(self)))

    @field_validator("id")
    @classmethod
    def _id_can_be_signed(cls, id: str | None) -> str | None:
        if id is not None and ("." in id or not id.isascii() or not id.isprintable()):
            raise ValueError("expected printable ASCII without '.'")
        return id


def keys(webhook: Webhook) -> list[str]:
    """The secrets to sign with, the current secret first."""
    return webhook.secrets or ([webhook.secret] if webhook.secret is not None else [])


def webhook_id(job: Job[Webhook]) -> str:
    """The ``webhook-id`` header: the same on every attempt."""
    return job.payload.id or f"msg_{job.message_id}"


def signatures(job: Job[Webhook], body: bytes) -> dict[str, str]:
    """The signature headers of this attempt."""
    webhook, now = job.payload, int(SYSTEM_CLOCK.time())
    found = sign(keys(webhook), webhook_id=webhook_id(job), timestamp=now, body=body)
    if webhook.signature_style == "stripe":
        found |= sign_like_stripe(keys(webhook), timestamp=now, body=body)
    return found


def endpoint_of(webhook: Webhook) -> str:
    """The id of the endpoint: ``endpoint_id``, otherwise a hash of the URL without its query."""
    if webhook.endpoint_id is not None:
        return webhook.endpoint_id
    return _id_of(webhook.url.partition("?")[0])


@lru_cache(maxsize=1024)
def _id_of(address: str) -> str:
    # All spellings of a host are one endpoint. Only the host is rewritten: otherwise the ids of
    # endpoints that are already stored would change.
    given, checked = urlsplit(address), urlsplit(check_url(address, allow_http=True).url)
    if given.netloc != checked.netloc:
        address = given._replace(netloc=checked.netloc).geturl()
    return "url_" + hashlib.blake2b(address.encode(), digest_size=8).hexdigest()


@job_actor(
    "webhook.send",
    schema=Webhook,
    worker=lambda settings: settings.webhooks,
    options=lambda settings: {"in_flight": deliveries_at_a_time(settings)},
    middleware=lambda: _FirstAndLastWords(),
)
async def deliver_webhook(job: Job[Webhook]) -> None:
    """Sign the body and send it once; defer the job while its endpoint is busy or failing."""
    sync = registry_sync()
    sync.start()
    async with sync.limiter.delivery(endpoint_of(job.payload)):
        await _deliver(job)


async def _deliver(job: Job[Webhook]) -> None:
    webhook = job.payload
    body = orjson.dumps(webhook.body)
    # In lower case: otherwise a caller's Content-Type would be sent in addition to ours.
    own = check_headers(webhook.headers)
    headers = {**own, "content-type": "application/json", **signatures(job, body)}
    began = SYSTEM_CLOCK.monotonic()
    response: Response | None = None
    error: BaseException | None = None
    try:
        response = await egress().send(webhook.method, webhook.url, headers, body)
        now, permanent = SYSTEM_CLOCK.time(), get_settings().webhooks.permanent_statuses
        classify_status(response.status, response.headers, now, permanent=permanent)
    except BaseException as raised:
        error = raised
        raise
    finally:
        _note(job, headers, response, error, SYSTEM_CLOCK.monotonic() - began)


def _note(
    job: Job[Webhook],
    sent: Mapping[str, str],
    response: Response | None,
    error: BaseException | None,
    took: float,
) -> None:
    """Report an attempt to the endpoint registry, its log line and the delivery log.

    Args:
        sent: the request headers.
        took: duration in seconds, used if there is no response.
    """
    webhook, form_id = job.payload, job.metadata.form_id or ""
    host = check_url(webhook.url, allow_http=get_settings().webhooks.allow_http).host
    endpoint = endpoint_of(webhook)
    status = None if response is None else response.status
    registry_sync().note(endpoint, host, status=status, is_success=error is None, form_id=form_id)
    seconds = took if response is None else response.duration.total_seconds()
    ms, answer = round(seconds * 1000, 1), _about(webhook, sent, response)
    job.fields.update(
        webhook_id=webhook_id(job),
        endpoint=endpoint,
        host=host,
        status=status,
        duration_ms=ms,
        response=answer,
    )
    attempt = {
        "webhookId": webhook_id(job),
        "messageId": job.message_id,
        "endpoint": endpoint,
        "host": host,
        "formId": form_id,
        "submissionId": job.metadata.submission_id or "",
        "attempt": job.attempt,
        "outcome": _outcome(error),
        "status": status or 0,
        "durationMs": ms,
        "error": "" if error is None else type(error).__name__,
        "message": "" if error is None else describe(error),
        "response": answer,
        "at": SYSTEM_CLOCK.time(),
    }
    delivery_log().note(attempt, job)


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "delivered"
    return "refused" if isinstance(error, SinkPermanent | InvalidJob) else "failed"


def _about(webhook: Webhook, sent: Mapping[str, str], response: Response | None) -> str:
    """Size and media type of a response; with WEBHOOK_KEEP_RESPONSE_TEXT its first characters.

    Args:
        sent: the request headers.
    """
    if response is None or not response.body:
        return ""
    if get_settings().webhooks.keep_response_text:
        return _beginning(webhook, sent, response)
    kind = known_media_type(response.headers.get("content-type", ""))
    return f"{len(response.body)} bytes of {kind}"


def _beginning(webhook: Webhook, sent: Mapping[str, str], response: Response) -> str:
    """The first characters of a response, without exact copies of parts of the request."""
    text = response.body[: 4 * _MOST_OF_A_RESPONSE].decode(errors="replace")
    if len(text) < SHORTEST:
        return text
    # A path may be as secret as a query, and servers quote it in a 404 response.
    address = webhook.url.partition("://")[2].partition("/")[2]
    headers = [part for value in sent.values() for part in (value, *value.split())]
    address_parts = (address, _ADDRESS_PARTS.split(address))
    everything = (webhook.body, headers, keys(webhook), address_parts)
    return redacted(text, everything, most=_MOST_OF_A_RESPONSE)


class _FirstAndLastWords(Middleware):
    """Starts the registry sync with a worker; sends reports and attempts when it has stopped."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        queues = worker.consumer_whitelist
        if not queues or get_settings().webhooks.queue in queues:
            registry_sync().start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        for sync in registry_sync.made:
            sync.stop()
        for log in delivery_log.made:
            log.stop()
