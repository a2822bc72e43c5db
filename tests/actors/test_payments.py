"""Events of Stripe: which change a submission, and the objects of Stripe's own package."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import stripe

from formrelay.actors import payments
from formrelay.core.errors import InvalidJob
from tests.actors.conftest import Site
from tests.actors.receiver import Answer, Receiver
from tests.middleware.lines import Lines

PATH = "/api/v1/submissions/sub-1/payment/"


def event(type: str, metadata: Any = ..., **about: Any) -> dict[str, Any]:
    """An event as Stripe sends it."""
    if metadata is ...:
        metadata = {"submissionId": "sub-1"}
    return {
        "id": "evt_1",
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": 1_769_848_200,
        "data": {"object": {"id": "x_1", "object": type.rpartition(".")[0], "metadata": metadata}}
        | {"previous_attributes": {"amounts": [1, {"currency": "eur"}]}},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": type,
    } | ({"data": {"object": {"metadata": metadata, **about}}} if about else {})


@pytest.fixture
def api(site: Site, receiver: Receiver) -> Receiver:
    site.use(api={"url": receiver.url})
    receiver.answers(PATH, then=Answer(200, {"id": "sub-1", "status": "pending_payment"}))
    payments._warn_of_missing_id.cache_clear()
    return receiver


def reported(site: Site, api: Receiver, payload: Any) -> list[str]:
    """The statuses that the API is told after an event."""
    site.actors.update_payment.send(payload)
    site.work_off("submissions")
    assert site.dead("submissions") == []
    return [request.json["status"] for request in api.requests]


@pytest.mark.parametrize(
    ("type", "about", "status"),
    [
        ("payment_intent.succeeded", {}, "completed"),
        ("payment_intent.payment_failed", {}, "payment_failed"),
        ("checkout.session.completed", {"payment_status": "paid"}, "completed"),
        ("checkout.session.completed", {"payment_status": "no_payment_required"}, "completed"),
        ("checkout.session.async_payment_succeeded", {"payment_status": "paid"}, "completed"),
        ("checkout.session.async_payment_failed", {"payment_status": "unpaid"}, "payment_failed"),
        ("charge.refunded", {"refunded": True}, "refunded"),
    ],
)
def test_an_event_of_a_payment_is_reported(
    site: Site, api: Receiver, type: str, about: dict[str, Any], status: str
) -> None:
    assert reported(site, api, event(type, **about)) == [status]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (event("customer.created"), "not a payment event that formrelay uses"),
        (event("balance.available", None), "not a payment event that formrelay uses"),
        (event("payment_intent.succeeded", {}), "no submissionId in the metadata"),
        (event("payment_intent.succeeded", {"order": "7"}), "no submissionId in the metadata"),
        (event("charge.refunded", None), "no submissionId in the metadata"),
        (event("checkout.session.completed", payment_status="unpaid"), "payment pending"),
        (event("charge.refunded", refunded=False), "refunded in part"),
    ],
)
def test_another_event_is_done_and_the_line_of_the_attempt_says_why(
    site: Site, api: Receiver, lines: Lines, payload: dict[str, Any], why: str
) -> None:
    assert reported(site, api, payload) == []
    (line,) = lines.attempts()
    assert (line["outcome"], line["eventType"]) == ("done", payload["type"])
    assert line["ignored"] == why


def test_a_payment_event_without_a_submission_is_warned_of_once_for_each_type(
    site: Site, api: Receiver, lines: Lines
) -> None:
    for type in ("payment_intent.succeeded", "charge.refunded", "payment_intent.succeeded"):
        reported(site, api, event(type, {}))
    warned = lines.of("payment event without a submission: expected metadata.submissionId")
    assert [line["eventType"] for line in warned] == [
        "payment_intent.succeeded",
        "charge.refunded",
    ]


# -- objects of the package stripe ------------------------------------------------------------


def constructed(payload: dict[str, Any]) -> Any:
    """The event that a view gets from ``stripe.Webhook.construct_event``."""
    return stripe.Event.construct_from(payload, "sk_test")


def test_an_event_of_the_package_is_sent_as_the_plain_event(site: Site, api: Receiver) -> None:
    payload = event("payment_intent.succeeded")
    for given in (payload, constructed(payload)):
        site.actors.update_payment.send(given)
    one, other = (message["kwargs"] for message in site.messages("submissions"))
    assert one == other
    assert payload.items() <= one["payload"].items()
    site.work_off("submissions")
    assert [request.json["status"] for request in api.requests] == ["completed"] * 2


def test_parts_of_an_event_may_be_objects_of_the_package(site: Site) -> None:
    payload = event("charge.refunded")
    whole = constructed(payload)
    plain = site.actors.update_payment.message(payload).kwargs
    for data in (whole.data, {**payload["data"], "object": whole.data.object}):
        assert site.actors.update_payment.message({**payload, "data": data}).kwargs == plain


def test_decimals_of_the_package_are_sent_as_stripe_writes_them(site: Site) -> None:
    payload = event("invoice.paid", total_decimal=Decimal("10.50"), lines=[[Decimal(1)]])
    sent = site.actors.update_payment.message(constructed(payload)).kwargs["payload"]
    found = json.loads(json.dumps(sent["data"]["object"]))
    assert (found["total_decimal"], found["lines"]) == ("10.50", [["1"]])


def test_an_older_package_whose_objects_are_dictionaries_is_taken(site: Site) -> None:
    class StripeObject(dict[str, Any]):
        """As in stripe before 13."""

        def to_dict(self) -> dict[str, Any]:
            return dict(self)

    payload = event("payment_intent.succeeded")
    about = StripeObject(payload["data"]["object"])
    about["metadata"] = StripeObject(about["metadata"])
    given = StripeObject(payload, data=StripeObject(object=about))
    sent = site.actors.update_payment.message(given).kwargs["payload"]
    assert sent == {**payload, "data": {"object": payload["data"]["object"]}}
    assert type(sent["data"]["object"]["metadata"]) is dict


def test_an_object_that_is_no_event_is_refused(site: Site) -> None:
    for given in (
        stripe.Customer.construct_from({"id": "cus_1"}, "k"),
        object(),
        [event("charge.refunded")],
    ):
        with pytest.raises(InvalidJob, match="update_payment: payload"):
            site.actors.update_payment.send(given)
