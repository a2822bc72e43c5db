"""``/api/v1/workers/health``: the state of the broker; with a login, also workers and problems."""

from __future__ import annotations

from typing import Any

import orjson
from werkzeug import Response

from ....core.errors import FormrelayError, describe
from ...health.summary import NOTHING_KNOWN
from ..view import Route, View


def show(view: View) -> Response:
    """Answer 200 if the broker answers, else 503, as the view of Django does."""
    has_login = view.user is not None
    try:
        found = view.site.health.get(view.broker)
    except FormrelayError as error:
        about = {"error": describe(error), **NOTHING_KNOWN} if has_login else {}
        return _json({"status": "down", **about}, 503)
    return _json(found if has_login else {"status": "ok"}, 200)


def _json(body: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(body), status=status, content_type="application/json")


ROUTES = (Route("/api/v1/workers/health", "health", show, is_public=True),)
