"""Jobs with marked values, which succeed and fail, leave no mark in log lines, errors or masks.

The whole run, with all servers, the dashboard and the commands, is scripts/prove-privacy.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from formrelay.ops.masking import masked_message
from tests.actors.conftest import Site
from tests.middleware.lines import Lines
from tests.support.echo_site import EchoSite, serving
from tests.support.marked_payloads import bad, good, values_of
from tests.support.marks import Marks

QUEUES = ("submissions", "partials", "webhooks", "emails", "sheets")
#: Without those for which jobs wait.
FATES = ("ok", "400", "500", "reset", "garbage")


@pytest.fixture
def marks() -> Marks:
    return Marks()


@pytest.fixture
def echo(site: Site) -> Iterator[tuple[EchoSite, str]]:
    echo = EchoSite()
    with serving(echo) as url:
        site.use(api={"url": url}, webhooks={"delivery_log": True})
        yield echo, url


def test_no_mark_is_left_where_values_must_not_be(
    site: Site,
    echo: tuple[EchoSite, str],
    marks: Marks,
    lines: Lines,
) -> None:
    server, url = echo
    values = values_of(marks)
    errors = []
    for actor, payload in [*good(url, values, FATES), *bad(values)]:
        if actor.actor_name in ("save_submission", "save_partial", "deliver_webhook"):
            try:
                actor.send(payload=payload)
            except Exception as error:
                errors.append(f"{error!r} {error}")
    site.inject("webhooks", orjson.dumps(values) + b"\xff")
    site.work_off("submissions", "partials", "webhooks")
    letters = [letter for queue in QUEUES for letter in site.dead(queue)]
    rows = [message["kwargs"] for message in site.messages("events")]
    assert {"answer", "address", "header", "token", "path"} <= set(
        marks.find(b"".join(server.received))
    )
    searched = {
        "log": lines.text,
        "errors": " ".join(errors),
        "failures": repr([letter.failure for letter in letters]),
        "masked": repr([masked_message(letter.message.asdict()) for letter in letters]),
        "delivery log": repr(rows),
    }
    assert all(map(len, searched.values()))
    assert len(letters) > 5
    assert {place: marks.find(text.encode()) for place, text in searched.items()} == {
        place: {} for place in searched
    }


def test_a_mark_that_is_logged_by_hand_is_found(marks: Marks, lines: Lines) -> None:
    logging.getLogger("host").warning("planted %s", marks.of("answer"))
    assert marks.find(lines.text.encode()) == {"answer": 1}


@pytest.mark.parametrize(
    "encode",
    [
        str.upper,
        lambda text: quote(text, safe=""),
        lambda text: "".join(f"%{ord(one):02X}" for one in text),
        lambda text: base64.b64encode(f"x{text}".encode()).decode(),
        lambda text: base64.b64encode(f"xy {text}".encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: text[::-1],
        lambda text: text[:12],
    ],
)
def test_marks_are_found_in_other_encodings(marks: Marks, encode: Any) -> None:
    assert marks.find(f"before {encode(marks.of('answer'))} behind".encode())
    assert not marks.find(f"before {encode(Marks().of('answer'))} behind".encode())
