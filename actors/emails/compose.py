"""Makes the e-mail of a job: body, attachments, sender."""

from __future__ import annotations

from datetime import datetime

from ...core.clock import SYSTEM_CLOCK
from ...core.errors import InvalidJob
from ...sinks.smtp.address import Mailbox, normal, parse_mailbox
from ...sinks.smtp.message import Email
from ...state.journal import journal_id
from ..model import Job
from .resources import EmailResources
from .schema import EmailJob


def compose(job: Job[EmailJob], key: str, date: datetime, resources: EmailResources) -> Email:
    """Make the e-mail of a job, the same at every attempt.

    Args:
        key: names the e-mail.

    Raises:
        InvalidJob: a template, its data, an attachment or the sender is wrong.
        SinkTransient, SinkPermanent: an attachment cannot be read.
    """
    payload = job.payload
    body = resources.templates.render(payload.template, payload.data)
    return Email(
        id=email_id(key),
        date=date,
        sender=sender_of(payload, resources),
        to=[parse_mailbox(each) for each in payload.to],
        cc=[parse_mailbox(each) for each in payload.cc],
        bcc=[parse_mailbox(each) for each in payload.bcc],
        reply_to=[parse_mailbox(payload.reply_to)] if payload.reply_to else (),
        subject=payload.subject,
        text=body.text,
        html=body.html,
        attachments=resources.attachments.read(payload.attachments, SYSTEM_CLOCK.time()),
        kind=payload.kind,
        unsubscribe_url=payload.unsubscribe_url,
        sign=resources.dkim_key,
    )


def email_id(key: str) -> str:
    """The id of an e-mail: the left part of its Message-ID, and its ENVID.

    Bounces quote it, and it is the id of the e-mail's journal.
    """
    return journal_id(key)


def sender_of(payload: EmailJob, resources: EmailResources) -> Mailbox:
    """The sender of an e-mail.

    Raises:
        InvalidJob: there is none, or the job may not name it.
    """
    if payload.from_ is None:
        if resources.sender is None:
            raise InvalidJob("expected from, because EMAIL_FROM is not set, got none")
        return resources.sender
    sender = parse_mailbox(payload.from_)
    address = normal(sender.address)
    is_own = resources.sender is not None and normal(resources.sender.address) == address
    if not is_own and not resources.allowed_from & {address, f"@{sender.domain}"}:
        raise InvalidJob("expected from to be one of EMAIL_ALLOWED_FROM, got another")
    return sender
