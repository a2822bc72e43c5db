"""The forms that replay or delete dead letters by their ids; several pages have them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import orjson
from werkzeug import Response
from werkzeug.exceptions import BadRequest

from ...brokers.inspection import Action
from ...core.printable import shown_id
from .dead_query import Count
from .tasks import Selection
from .view import View, page_id

#: Maximum number of dead letters that an operator may select.
_MAX_SELECTED = 1_000


def ask_about_ids(
    view: View,
    action: Action,
    ids: Mapping[str, Sequence[str]],
    *,
    back: str,
    note: str | None = None,
) -> Response:
    """Ask before dead letters with these ids are replayed or deleted.

    Args:
        ids: ids by queue.
        back: URL of the page to return to.
        note: a further text for the operator.
    """
    return view.render(
        "dead_confirm.html",
        title=f"{action.capitalize()} dead letters",
        action=action,
        count=Count(sum(map(len, ids.values())), True),
        words=Selection(ids=ids).words,
        group=None,
        fields=[],
        values=[letter_value(queue, id) for queue, its_ids in ids.items() for id in its_ids],
        back=back,
        note=note,
    )


def letter_value(queue: str, id: str) -> str:
    """Return the value by which a form names a dead letter; :func:`read_letters` reads it."""
    return json.dumps([shown_id(queue), shown_id(id)])


def read_letters(view: View) -> dict[str, list[str]]:
    """The selected ids by queue; see :func:`letter_value`."""
    chosen: defaultdict[str, list[str]] = defaultdict(list)
    values = view.request.form.getlist("letter")
    if len(values) > _MAX_SELECTED:
        raise BadRequest(f"expected at most {_MAX_SELECTED} dead letters, got {len(values)}")
    for value in values:
        try:
            queue, id = map(page_id, orjson.loads(value))
        except (ValueError, TypeError):
            raise BadRequest("expected a dead letter as the pages write it") from None
        chosen[queue].append(id)
    return chosen
