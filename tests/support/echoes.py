"""Responses that echo values of a request in many encodings, and a search for leaked values."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

#: Length in characters of the shortest part of a value that counts as leaked.
SHORTEST = 8

#: Encodings of a value. Values are chosen so that no ordinary log line contains them.
FORMS: list[Callable[[str], str]] = [
    str,
    str.upper,
    str.swapcase,
    html.escape,
    quote,
    lambda value: quote(quote(value, safe="")),
    json.dumps,
    repr,
    lambda value: "".join(f"&#{ord(one)};" for one in value),
    lambda value: base64.b64encode(value.encode(errors="replace")).decode(),
    lambda value: value.encode(errors="replace").hex(),
    lambda value: value[: len(value) * 2 // 3],
    lambda value: value[3:],
    lambda value: " ".join(value),
    lambda value: value[::-1],
    lambda value: f"{value[:9]}\r\n {value[9:]}",
]

#: Not `st.text()`, which also tries strings of formrelay's code, and log lines contain those.
_ANY = st.lists(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=9, max_size=40)
VALUES = st.lists(
    _ANY.map("".join)
    | st.integers(10**8, 10**15).map(str)
    | st.from_regex(r"[a-z]{4,9}\.zq[a-z]{3,9}@example\.org", fullmatch=True),
    min_size=1,
    max_size=3,
)


@st.composite
def echoes(draw: st.DrawFn, values: list[str]) -> bytes:
    """A complete HTTP response that echoes values in every part."""

    def echo() -> str:
        return draw(st.sampled_from(FORMS))(draw(st.sampled_from(values)))

    def line() -> str:
        return echo().replace("\r", " ").replace("\n", " ")

    status = draw(st.sampled_from([200, 301, 400, 401, 404, 409, 410, 422, 429, 500, 503]))
    body = draw(
        st.sampled_from(
            [
                echo(),
                f"<p>{echo()}</p>",
                json.dumps({"errors": {echo(): [echo()]}}),
                json.dumps({echo(): echo(), "answers": {echo(): 1}, f"answers.{echo()}": 1}),
            ]
        )
    ).encode(errors="replace")
    head = [
        f"HTTP/1.1 {status} {line()}",
        f"Content-Type: {draw(st.sampled_from(['application/json', 'text/', '']))}{line()}",
        f"Location: https://{line()}/{line()}",
        f"Retry-After: {line()}",
        f"X-Error: {line()}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(head).encode("latin-1", errors="replace") + b"\r\n\r\n" + body


def leaked_parts(values: list[str], text: str) -> list[str]:
    """Parts of the values, in any of the encodings above, that the text contains."""
    text = text.casefold()
    spellings = {form(value).casefold() for value in values for form in FORMS}
    return [
        part
        for spelling in spellings
        for at in range(len(spelling) - SHORTEST + 1)
        if (part := spelling[at : at + SHORTEST]) in text
    ]


def as_text(*records: Any) -> str:
    """Records as JSON lines without ASCII escapes."""
    return "\n".join(json.dumps(one, ensure_ascii=False, default=str) for one in records)
