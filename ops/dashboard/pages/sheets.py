"""Sheets: the connections to Google accounts; pause and resume."""

from __future__ import annotations

from werkzeug import Response

from ....config import get_settings
from ....core.errors import ConfigError
from ....state import make_tokens
from ....state.connections import Connection
from ....state.tokens import Tokens
from ..view import Route, View


def show(view: View) -> Response:
    """List the connections, paused connections first."""
    connections: list[Connection] = []
    why = None
    if view.broker.state is None:
        why = "Each worker keeps its tokens in its memory: set STATE_URL to a Redis URL."
    else:
        try:
            connections = _tokens(view).connections()
        except ConfigError as error:
            why = str(error)
    return view.render(
        "sheets.html",
        title="Sheets",
        connections=sorted(connections, key=lambda each: not each.is_paused),
        why=why,
        now=view.now,
    )


def change(view: View) -> Response:
    """Pause or resume a connection."""
    id, do = view.id_field("id"), view.field("do")
    if do not in ("pause", "resume"):
        raise view.not_found("There is no such action.")
    tokens = _tokens(view)
    if do == "pause":
        is_done = tokens.pause(id, f"paused by {view.operator.who or 'an operator'}")
    else:
        is_done = tokens.resume(id)
    if not is_done:
        text = "Nothing was changed: it is unknown, or somebody has just done the same."
        return view.redirect("sheets", flash=text, kind="problem")
    view.record(f"sheets connections {do}", id=id)
    text = "Resumed: its jobs run within ten minutes." if do == "resume" else "Paused."
    return view.redirect("sheets", flash=text)


def _tokens(view: View) -> Tokens:
    """The tokens that all workers share.

    Raises:
        ConfigError: STATE_KEY is not set, or cryptography is not installed.
    """
    return make_tokens(view.broker.state, _state_key, view.broker.idempotency_store())


def _state_key() -> str | None:
    return get_settings().broker.secret("state_key")


ROUTES = (
    Route("/sheets", "sheets", show, label="Sheets"),
    Route("/sheets/change", "sheets.change", change, method="POST"),
)
