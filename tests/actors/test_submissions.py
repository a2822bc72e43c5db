"""Submissions through a worker into a fake API, and the webhooks that follow."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import standardwebhooks

from formrelay.core.errors import InvalidJob
from formrelay.core.failure import Reason
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.middleware.lines import Lines
from tests.support.waiting import wait_until

SECRET = "SECRET-VALUE"
PATH = "/api/v1/submissions/"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SUBMISSION: dict[str, Any] = {
    "submissionId": "sub-1",
    "formId": "form-1",
    "status": "completed",
    "answers": {"name": SECRET},
    "submittedAt": "2026-01-31T09:30:00Z",
}


@pytest.fixture
def api(site: Site, receiver: Receiver) -> Receiver:
    site.use(api={"url": receiver.url})
    receiver.answers(PATH, then=saved())
    receiver.answers(f"{PATH}sub-1/", then=Answer(404, {"errors": {}}))
    return receiver


def saved(status: str = "completed", *webhooks: dict[str, Any], code: int = 201) -> Answer:
    return Answer(code, {"id": "sub-1", "status": status, "webhooks": list(webhooks)})


def endpoint(number: int, **changes: Any) -> dict[str, Any]:
    base = {
        "id": f"end-{number}",
        "url": f"https://example.com/{number}",
        "secret": f"{KEY}",
        "method": "POST",
        "headers": {"X-Number": str(number)},
    }
    return {**base, **changes}


def webhooks(site: Site) -> list[dict[str, Any]]:
    """Payloads of the waiting webhooks."""
    return [message["kwargs"]["payload"] for message in site.messages("webhooks")]


def test_a_submission_is_one_post_with_its_key_and_token(
    site: Site, api: Receiver, lines: Lines
) -> None:
    site.actors.save_submission.send({**SUBMISSION, "locale": "de"}, {"formId": "form-1"})
    site.work_off("submissions")
    (request,) = api.requests
    assert (request.method, request.path) == ("POST", PATH)
    assert request.headers["idempotency-key"] == "sub-1"
    assert request.headers["authorization"] == "Bearer the-api-token"
    assert request.json == {**SUBMISSION, "locale": "de"}
    assert site.dead("submissions") == []
    assert webhooks(site) == []
    (line,) = lines.attempts()
    assert (line["outcome"], line["formId"]) == ("done", "form-1")
    assert SECRET not in lines.text
    assert "the-api-token" not in lines.text


def test_the_secrets_of_the_endpoints_are_not_sent_to_the_api(site: Site, api: Receiver) -> None:
    site.actors.save_submission.send({**SUBMISSION, "webhooks": [endpoint(1), endpoint(2)]})
    site.work_off("submissions")
    (request,) = api.requests
    assert "webhooks" not in request.json
    assert KEY.encode() not in request.body
    assert [one["endpointId"] for one in webhooks(site)] == ["end-1", "end-2"]


@pytest.mark.parametrize("code", [200, 201])
def test_endpoints_returned_by_the_api_get_webhooks(site: Site, api: Receiver, code: int) -> None:
    api.answers(PATH, saved("completed", endpoint(1), endpoint(2, method="PUT"), code=code))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    one, other = webhooks(site)
    assert one["url"] == "https://example.com/1"
    assert (one["method"], other["method"]) == ("POST", "PUT")
    assert (one["headers"], one["secret"]) == ({"X-Number": "1"}, KEY)
    assert one["body"] == {
        "type": "submission.completed",
        "timestamp": "2026-01-31T09:30:00Z",
        "data": {"submissionId": "sub-1", "formId": "form-1", "answers": {"name": SECRET}},
    }
    (first, _) = site.messages("webhooks")
    assert first["kwargs"]["metadata"] == {
        "formId": "form-1",
        "submissionId": "sub-1",
        "version": 1,
    }


def test_the_api_and_the_endpoints_get_the_trace_of_the_sender(site: Site, api: Receiver) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    hook = endpoint(1, url=f"{api.url}/hook")
    api.answers(PATH, Answer(503), saved("completed", hook))  # the second attempt has it too
    metadata = {"traceparent": trace, "tracestate": "vendor=1"}
    site.actors.save_submission.send(SUBMISSION, metadata)
    site.work_off("submissions", "webhooks")
    to_api, to_hook = api.of(PATH), api.of("/hook")
    assert (len(to_api), len(to_hook)) == (2, 1)
    assert [one.headers["traceparent"] for one in (*to_api, *to_hook)] == [trace] * 3
    assert [one.headers.get("tracestate") for one in to_api] == ["vendor=1"] * 2
    assert "tracestate" not in to_hook[0].headers


def test_endpoints_of_the_job_override_those_of_the_api(site: Site, api: Receiver) -> None:
    api.answers(PATH, then=saved("completed", endpoint(9)))
    site.actors.save_submission.send({**SUBMISSION, "webhooks": [endpoint(1)]})
    site.actors.save_submission.send({**SUBMISSION, "webhooks": []})
    site.work_off("submissions")
    assert [one["endpointId"] for one in webhooks(site)] == ["end-1"]


def test_the_webhook_id_depends_on_submission_and_endpoint(site: Site, api: Receiver) -> None:
    api.answers(PATH, then=saved("completed", endpoint(1), endpoint(2)))
    other = {**SUBMISSION, "submissionId": "sub-2"}
    # The same submission twice, as after a lost answer; then another submission.
    for submission in (SUBMISSION, SUBMISSION, other):
        site.actors.save_submission.send(submission)
        site.work_off("submissions")
    ids = [one["id"] for one in webhooks(site)]
    assert ids[0:2] == ids[2:4]
    assert len(set(ids)) == 4
    assert all(id.startswith("sub_") and "." not in id for id in ids)


def test_endpoints_without_an_id_are_identified_by_their_url(site: Site, api: Receiver) -> None:
    bare = [{"url": f"https://example.com/{n}", "secret": KEY} for n in range(2)]
    site.actors.save_submission.send({**SUBMISSION, "webhooks": bare})
    site.work_off("submissions")
    assert len({one["id"] for one in webhooks(site)}) == 2


@pytest.mark.parametrize("status", ["draft", "pending_payment"])
def test_an_incomplete_submission_sends_no_webhook(site: Site, api: Receiver, status: str) -> None:
    api.answers(PATH, then=saved(status, endpoint(1)))
    site.actors.save_submission.send({**SUBMISSION, "status": status, "webhooks": [endpoint(2)]})
    site.work_off("submissions")
    assert api.requests[0].json["status"] == status
    assert webhooks(site) == []
    assert site.dead("submissions") == []


def test_a_refused_submission_is_dead_lettered_with_field_names_and_no_values(
    site: Site, api: Receiver, lines: Lines
) -> None:
    api.answers(PATH, then=Answer(400, {"answers": [f"{SECRET} is no name"]}))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    (letter,) = site.dead("submissions")
    assert (letter.failure.reason, letter.failure.code) == (Reason.PERMANENT, 400)
    assert "fields: answers" in letter.failure.message
    assert letter.message.kwargs["payload"]["answers"] == {"name": SECRET}
    assert len(api.requests) == 1
    assert SECRET not in lines.text
    assert SECRET not in repr(letter.failure)


@pytest.mark.parametrize("code", [401, 403, 408, 429, 500, 503])
def test_transient_errors_are_retried_with_the_same_idempotency_key(
    site: Site, api: Receiver, code: int
) -> None:
    api.answers(PATH, Answer(code, {"detail": "no"}), then=saved("completed", endpoint(1)))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    first, second = api.of(PATH)
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == "sub-1"
    assert first.body == second.body
    assert second.at - first.at >= 0.1
    assert site.dead("submissions") == []
    assert len(webhooks(site)) == 1


def test_retry_after_is_respected(site: Site, api: Receiver) -> None:
    api.answers(PATH, Answer(503, headers={"Retry-After": "1"}))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    first, second = api.of(PATH)
    assert 1 <= second.at - first.at < 30


def test_the_last_failed_attempt_makes_a_dead_letter(site: Site, api: Receiver) -> None:
    api.answers(PATH, then=Answer(500))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    (letter,) = site.dead("submissions")
    assert (letter.failure.reason, letter.failure.code) == (Reason.ATTEMPTS_EXHAUSTED, 500)
    assert (letter.failure.attempt, len(api.of(PATH))) == (3, 3)


def test_an_unknown_outcome_is_looked_up_before_a_second_write(site: Site, api: Receiver) -> None:
    api.answers(PATH, then=Answer(500))  # saved, but the answer was lost
    there = {"id": "sub-1", "status": "completed", "webhooks": [endpoint(1)]}
    api.answers(f"{PATH}sub-1/", then=Answer(200, there))
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    assert [request.method for request in api.requests] == ["POST", "GET"]
    assert len(webhooks(site)) == 1
    assert site.dead("submissions") == []


def test_an_invalid_submission_of_another_publisher_is_dead_lettered_without_a_request(
    site: Site, api: Receiver, lines: Lines
) -> None:
    site.inject("submissions", b'{"type": "submission.save", "payload": {"id": "SECRET-VALUE"}}')
    site.inject(
        "submissions",
        b'{"queue_name": "submissions", "actor_name": "save_submission", "args": [],'
        b' "kwargs": {"self": "SECRET-VALUE", "batch": []}, "options": {}, "message_id": "x",'
        b' "message_timestamp": 1}',
    )
    site.work_off("submissions")
    letters = site.dead("submissions")
    assert [letter.failure.reason for letter in letters] == [Reason.INVALID] * 2
    assert api.requests == []
    assert SECRET not in lines.text


def test_a_submission_reaches_the_receiver_of_its_webhook(site: Site, api: Receiver) -> None:
    api.answers(PATH, then=saved("completed", endpoint(1, url=f"{api.url}/hook")))
    site.actors.save_submission.send(SUBMISSION)
    site.start()
    (hook,) = wait_until(lambda: api.of("/hook"))
    wait_until(site.is_idle)
    found = standardwebhooks.Webhook(KEY).verify(hook.body, hook.headers)
    assert found["data"]["answers"] == {"name": SECRET}
    assert hook.headers["x-number"] == "1"


def test_two_jobs_with_one_idempotency_key_make_one_request(site: Site, api: Receiver) -> None:
    for _ in range(2):
        site.actors.save_submission.send(SUBMISSION, {"idempotencyKey": "form-1/sub-1"})
    body = {"type": "submission.save", "payload": SUBMISSION}
    site.inject(
        "submissions", orjson.dumps(body | {"metadata": {"idempotency_key": "form-1/sub-1"}})
    )
    site.work_off("submissions")
    assert len(api.of(PATH)) == 1
    # For another actor it is another key, and a job without a key runs as usual.
    site.actors.save_submission.send(SUBMISSION)
    site.work_off("submissions")
    assert len(api.of(PATH)) == 2


@pytest.mark.parametrize("key", [7, "", "x" * 201, ["a"]], ids=repr)
def test_an_invalid_idempotency_key_is_refused(site: Site, api: Receiver, key: Any) -> None:
    with pytest.raises(InvalidJob, match=r"metadata\.idempotencyKey"):
        site.actors.save_submission.send(SUBMISSION, {"idempotencyKey": key})
    body = {"type": "submission.save", "payload": SUBMISSION, "metadata": {"idempotencyKey": key}}
    site.inject("submissions", orjson.dumps(body))
    site.work_off("submissions")
    (letter,) = site.dead("submissions")
    assert letter.failure.reason is Reason.INVALID
    assert api.requests == []
