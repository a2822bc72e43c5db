"""Jobs of every actor with marked values, which succeed and fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from formrelay.actors import (
    deliver_webhook,
    record_events,
    save_partial,
    save_submission,
    send_email,
    update_sheet,
)
from tests.support.marks import Marks

#: What the servers do; see tests/support/echo_site.py.
HTTP_FATES = (
    *("ok", "400", "404", "409", "410", "413", "422", "429", "500", "503"),
    *("slow", "reset", "garbage", "redirect"),
)


KINDS = ("answer", "name", "subject", "header", "token", "refresh", "path", "cell", "tab", "kuery")


def values_of(marks: Marks) -> dict[str, str]:
    """The marked values of the jobs by name."""
    return {
        **{kind: marks.of(kind) for kind in KINDS},
        "query": marks.of("kuery"),
        "address": marks.address("address"),
        "secret": marks.secret("secret"),
    }


def answers(values: dict[str, str]) -> dict[str, Any]:
    """Answers with marks at all depths and as names."""
    return {
        "q1": values["answer"],
        "q2": {"deep": [values["name"], {"mail": values["address"]}]},
        "q3": True,
    }


def good(
    url: str, values: dict[str, str], fates: Sequence[str] = HTTP_FATES
) -> Iterator[tuple[Any, Any]]:
    """Yield jobs that senders accept, with each outcome."""
    for number, fate in enumerate(fates):
        yield deliver_webhook, webhook(f"{url}/{values['path']}/fate-{fate}", number, values)
        yield save_submission, submission(f"s{number}-fate-{fate}", url, values)
        yield save_partial, partial(f"p{number}-fate-{fate}", values)
    for host in ("127.0.0.1:1", "nowhere.invalid", "10.1.2.3"):
        yield deliver_webhook, webhook(f"http://{host}/{values['path']}", 99, values)
    for local in ("fine", "refused", "deferred", "odd"):
        yield send_email, email(local, values)
    yield send_email, {**email("fine", values), "data": {**answers(values), "x": "fate-554"}}
    yield send_email, {**email("fine", values), "template": "missing_template"}
    yield record_events, event(values)
    yield record_events, [event(values), event(values)]
    for sheet in ("book", "unknown-book"):
        base = {"spreadsheetId": sheet, "range": "Answers", "connectionId": "ann"}
        yield update_sheet, {**base, "answers": answers(values)}
        yield update_sheet, {**base, "range": f"{values['tab']}!A1:C", "values": [[values["cell"]]]}
    tokens = {"access_token": values["token"], "refresh_token": values["refresh"]}
    yield (
        update_sheet,
        {
            "spreadsheetId": "book",
            "range": "Answers",
            "answers": answers(values),
            "auth": tokens,
        },
    )


def bad(values: dict[str, str]) -> Iterator[tuple[Any, Any]]:
    """Yield payloads that do not fit the schema."""
    yield deliver_webhook, {"url": f"ftp://nowhere.example/{values['path']}", "body": 1}
    yield deliver_webhook, {"url": values["answer"], "secret": values["secret"]}
    yield save_submission, {"submissionId": {"x": values["answer"]}, "answers": values["answer"]}
    yield save_submission, {"q1": values["answer"]}
    yield send_email, {"to": [values["answer"]], "subject": values["subject"] + "\n", "template": 1}
    yield record_events, {"type": {"x": values["answer"]}, "formId": [values["answer"]]}
    yield update_sheet, {"spreadsheetId": values["answer"] + "/", "range": values["answer"] + "!!"}


def webhook(url: str, number: int, values: dict[str, str]) -> dict[str, Any]:
    """A webhook with marks in every part."""
    return {
        "url": f"{url}/{number}?key={values['query']}",
        "body": {"submissionId": f"s{number}", "formId": "form1", "answers": answers(values)},
        "headers": {"x-custom": values["header"], "authorization": f"Bearer {values['token']}"},
        "secret": values["secret"],
    }


def submission(id: str, url: str, values: dict[str, str]) -> dict[str, Any]:
    """A submission whose webhook succeeds."""
    endpoint = {
        "url": f"{url}/{values['path']}/fine?key={values['query']}",
        "secret": values["secret"],
        "headers": {"x-custom": values["header"]},
    }
    return {
        "submissionId": id,
        "formId": "form1",
        "status": "completed",
        "submittedAt": "2026-01-31T09:30:00Z",
        "answers": answers(values),
        "webhooks": [endpoint],
    }


def partial(id: str, values: dict[str, str]) -> dict[str, Any]:
    """An autosaved form."""
    return {
        "partialId": id,
        "formId": "form1",
        "sessionId": "session1",
        "revision": 1,
        "answers": answers(values),
        "updatedAt": "2026-01-31T09:30:00Z",
    }


def email(local: str, values: dict[str, str]) -> dict[str, Any]:
    """An e-mail with marks in all addresses, the subject and the variables."""
    return {
        "to": [f"{values['name']} <{local}.{values['address']}>"],
        "cc": [f"{local}.cc.{values['address']}"],
        "bcc": [f"fine.bcc.{values['address']}"],
        "replyTo": f"reply.{values['address']}",
        "subject": values["subject"],
        "template": "submission_notice",
        "data": {
            "formTitle": values["answer"],
            "submittedAt": values["answer"],
            "answers": [{"question": values["answer"], "answer": values["name"]}],
            "url": f"https://forms.example/{values['path']}",
        },
    }


def event(values: dict[str, str]) -> dict[str, Any]:
    """An analytics event with marks in its properties."""
    return {"type": "form.viewed", "formId": "form1", "properties": answers(values)}
