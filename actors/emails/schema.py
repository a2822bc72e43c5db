"""The job ``email.send``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,  # noqa: F401 - pydantic before 2.8 resolves the base's annotations here
    model_validator,
)

from ...core.errors import FormrelayError
from ...sinks.http import check_url
from ...sinks.smtp import headers
from ...sinks.smtp.address import Mailbox, each_once, parse_mailbox
from ...state.journal import job_key
from ..model import Answers, Job, JobModel
from ..payload_secrets import SECRET, SECRET_URL

T = TypeVar("T")

#: Maximum number of recipients of a job, which one transaction reaches: 100 is what servers must
#: accept (RFC 5321, section 4.5.3.1.8).
MAX_RECIPIENTS = 100
MAX_ATTACHMENTS = 20
#: A name of a template: no folder, no hidden file, no part that others include (``_layout``).
TEMPLATE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"

_ADDRESS_HELP = "`a@b.example` or `Ann <a@b.example>`"


def _checked(check: Callable[[T], object]) -> AfterValidator:
    """Turn an error of ``check`` into the ValueError that pydantic expects."""

    def validate(value: T) -> T:
        try:
            check(value)
        except FormrelayError as error:
            raise ValueError(str(error)) from None
        return value

    return AfterValidator(validate)


Address = Annotated[str, Field(max_length=1000), _checked(parse_mailbox)]
Addresses = Annotated[list[Address], Field(max_length=MAX_RECIPIENTS)]
Subject = Annotated[
    str,
    Field(max_length=4 * headers.MAX_SUBJECT),
    _checked(headers.subject),
]


class AttachmentFile(JobModel):
    """A file to attach."""

    filename: str = Field(
        min_length=1, max_length=200, repr=False, description="Name that the recipient sees."
    )
    path: str | None = Field(
        None,
        max_length=1000,
        repr=False,
        description="Path inside EMAIL_ATTACHMENTS_FOLDER of the worker.",
    )
    url: Annotated[str, Field(max_length=8000), _checked(check_url), SECRET_URL] | None = Field(
        None, repr=False, description="https URL, fetched at each attempt."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> AttachmentFile:
        if (self.path is None) == (self.url is None):
            raise ValueError("expected either path or url")
        return self


class EmailJob(JobModel):
    """An e-mail to at most 100 recipients."""

    to: Annotated[Addresses, Field(min_length=1)] = Field(repr=False, description=_ADDRESS_HELP)
    cc: Addresses = Field(default_factory=list, repr=False)
    bcc: Addresses = Field(
        default_factory=list, repr=False, description="Recipients that the others do not see."
    )
    reply_to: Address | None = Field(None, repr=False)
    from_: Address | None = Field(
        None,
        alias="from",
        repr=False,
        description="One of EMAIL_ALLOWED_FROM. Default: EMAIL_FROM.",
    )
    subject: Subject = Field(repr=False)
    template: str = Field(pattern=TEMPLATE_NAME, description="Name of a template of the worker.")
    # Links with tokens are among them.
    data: Annotated[Answers, SECRET] = Field(
        default_factory=dict, repr=False, description="Variables of the template, by name."
    )
    attachments: list[AttachmentFile] = Field(default_factory=list, max_length=MAX_ATTACHMENTS)
    kind: Literal["notice", "autoresponse", "list"] = Field(
        "notice",
        description="`autoresponse`: marked as automatic, never sent to automatic addresses, and "
        "only a few to one recipient. `list`: with List-Unsubscribe; needs `unsubscribeUrl`.",
    )
    unsubscribe_url: (
        Annotated[str, Field(max_length=2000), _checked(headers.unsubscribe), SECRET_URL] | None
    ) = Field(None, repr=False, description="https URL that a POST request unsubscribes.")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Jobs with the same id and content are one e-mail. Default: the job's id.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> EmailJob:
        recipients = len(self.to) + len(self.cc) + len(self.bcc)
        if recipients > MAX_RECIPIENTS:
            raise ValueError(
                f"expected at most {MAX_RECIPIENTS} recipients, got {recipients}: send several jobs"
            )
        if self.kind == "list" and self.unsubscribe_url is None:
            raise ValueError("expected unsubscribeUrl for the kind list, got none")
        return self


def email_to_wire(email: EmailJob, _original: Any) -> dict[str, Any]:
    """The payload that is sent: without empty lists."""
    return {name: value for name, value in email.wire().items() if value != []}


def recipients_of(payload: EmailJob) -> list[Mailbox]:
    """The recipients of ``to``, ``cc`` and ``bcc``, each address once."""
    return each_once(map(parse_mailbox, [*payload.to, *payload.cc, *payload.bcc]))


def email_key(job: Job[EmailJob], queue: str) -> str:
    """The key of an e-mail: the same at every attempt and replay of its job.

    It contains a digest of the payload, because ids may repeat: publishers count from 1 again.
    """
    payload = job.payload
    content = orjson.dumps(payload.wire(), option=orjson.OPT_SORT_KEYS)
    digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    return job_key(queue, f"{payload.id or job.message_id}\n{digest}")
