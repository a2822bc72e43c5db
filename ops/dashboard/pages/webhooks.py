"""Webhooks: endpoints with success rate and circuit breaker; enable, disable, test, resend."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dramatiq import Message
from werkzeug import Response

from ....actors.webhooks.registry import EndpointRegistry
from ....actors.webhooks.resources import make_registry
from ....core.errors import ConfigError, InvalidJob
from ....core.printable import shown_id
from ...resending import NoSuchWebhook, resend_webhook
from ..dead_forms import ask_about_ids
from ..endpoint_list import Endpoint, dead_of_endpoint, list_endpoints, webhook_queue
from ..view import Route, View, page_id
from ..webhook_tests import make_entered_test, make_test

#: Maximum number of endpoints on the page.
_MAX_ENDPOINTS = 500
#: Seconds between two refreshes: the list reads up to a thousand jobs in each state.
_REFRESH_SECONDS = 20


def show(view: View) -> Response:
    """List the endpoints; endpoints with problems first."""
    rates, why_no_rates = view.site.rates.get(view.broker)
    endpoints = list_endpoints(view.broker, rates, view.now)
    return view.render(
        "webhooks.html",
        title="Webhooks",
        endpoints=endpoints[:_MAX_ENDPOINTS],
        number=len(endpoints),
        why_no_rates=why_no_rates,
        is_shared=view.broker.state is not None,
        refresh_seconds=_REFRESH_SECONDS,
        now=view.now,
    )


def change(view: View) -> Response:
    """Enable, disable or test an endpoint, or ask about its dead letters."""
    id = view.id_field("endpoint")
    match view.field("do"):
        case "enable":
            is_done = _registry(view).enable(id)
            text = f"Enabled {shown_id(id)}." if is_done else "It is neither failing nor disabled."
            return _done(view, "webhooks endpoints enable", id, text, is_done=is_done)
        case "disable":
            why = f"by {view.operator.who or 'an operator'}"
            is_done = _registry(view).disable(id, why=why, now=view.now)
            text = f"Disabled {shown_id(id)}." if is_done else "It is disabled already."
            return _done(view, "webhooks endpoints disable", id, text, is_done=is_done)
        case "test":
            return _test(view, id)
        case "resend":
            return _resend_failed(view, id)
        case _:
            raise view.not_found("There is no such action.")


def resend(view: View) -> Response:
    """Deliver one webhook again, by its webhook-id or the id of its job."""
    id = page_id(view.field("id", "").strip())
    if not id:
        return view.redirect("webhooks", flash="Enter a webhook id.", kind="problem")
    try:
        done = resend_webhook(id, view.broker)
    except (NoSuchWebhook, ConfigError) as error:
        return view.redirect("webhooks", flash=str(error), kind="problem")
    if done != "already queued":
        view.record("webhooks resend", id=shown_id(id))
    return view.redirect("webhooks", flash=f"{shown_id(id)}: {done}.")


def send_test(view: View) -> Response:
    """Send a test with the URL and secret that an operator has entered."""
    endpoint = _endpoint(view, view.id_field("endpoint"))
    url, secret = view.field("url", "").strip(), view.field("secret", "").strip()
    style = view.field("style", "standard")
    try:
        message = make_entered_test(view.broker, endpoint, url, secret, style)
    except InvalidJob as error:
        return _ask(view, endpoint, url, style, problem=str(error))
    return _send(view, endpoint.id, message, has_entered=True)


def _test(view: View, id: str) -> Response:
    if id in _disabled(view):
        text = "It is disabled, so a test would be dead-lettered: enable it first."
        return view.redirect("webhooks", flash=text, kind="problem")
    message = make_test(view.broker, id)
    if message is None:
        return _ask(view, _endpoint(view, id))
    return _send(view, id, message)


def _send(view: View, id: str, message: Message[Any], *, has_entered: bool = False) -> Response:
    sent = view.broker.enqueue(message)
    about: dict[str, Any] = {"URL and secret": "entered"} if has_entered else {}
    view.record("webhooks endpoints test", endpoint=shown_id(id), job=sent.message_id, **about)
    text = f"Sent a test to {shown_id(id)} as job {sent.message_id}."
    return view.redirect("webhooks", flash=text)


def _ask(
    view: View, endpoint: Endpoint, url: str = "", style: str = "", problem: str | None = None
) -> Response:
    """Ask for URL and secret of an endpoint. The secret is never sent back to the browser."""
    return view.render(
        "webhook_test.html",
        title="Send a test",
        status=200 if problem is None else 422,
        endpoint=endpoint,
        given_url=url,
        style=style,
        problem=problem,
    )


def _endpoint(view: View, id: str) -> Endpoint:
    """An endpoint of the list: tests are sent to known endpoints only."""
    rates, _ = view.site.rates.get(view.broker)
    for endpoint in list_endpoints(view.broker, rates, view.now):
        if endpoint.id == id:
            return endpoint
    raise view.not_found("There is no such endpoint any more.")


def _disabled(view: View) -> Collection[str]:
    return () if view.broker.state is None else make_registry(view.broker.state).disabled()


def _resend_failed(view: View, id: str) -> Response:
    """Ask before the dead letters of an endpoint are replayed."""
    ids, is_complete = dead_of_endpoint(view.broker, id)
    if not ids:
        text = f"No dead letter of {shown_id(id)} was found."
        return view.redirect("webhooks", flash=text, kind="problem")
    note = None if is_complete else "There may be more: repeat it when these are done."
    chosen = {webhook_queue(): ids}
    return ask_about_ids(view, "replay", chosen, back=view.url("webhooks"), note=note)


def _done(view: View, action: str, id: str, text: str, *, is_done: bool) -> Response:
    if is_done:
        view.record(action, endpoint=shown_id(id))
    return view.redirect("webhooks", flash=text, kind="done" if is_done else "problem")


def _registry(view: View) -> EndpointRegistry:
    if view.broker.state is None:
        raise view.not_found("Workers share no endpoint registry: set STATE_URL to a Redis URL.")
    return make_registry(view.broker.state)


ROUTES = (
    Route("/webhooks", "webhooks", show, label="Webhooks"),
    Route("/webhooks/change", "webhooks.change", change, method="POST"),
    Route("/webhooks/test", "webhooks.test", send_test, method="POST"),
    Route("/webhooks/resend", "webhooks.resend", resend, method="POST"),
)
