"""Marked values of a run, and the search for them in what must not have values."""

from __future__ import annotations

import base64
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote

#: Letters and digits alone: no encoding changes them but base64 and hexadecimal digits.
_LENGTH = 10


class Marks:
    """Values that contain a random text of this run and the name of their kind."""

    def __init__(self) -> None:
        self._run = "zq" + secrets.token_hex(_LENGTH // 2)
        self._pattern = re.compile(rf"{self._run}([a-z]+?)q".encode(), re.IGNORECASE)
        self._encoded = {
            **dict.fromkeys(_in_base64(self._run), "in base64"),
            self._run.encode().hex().encode(): "in hexadecimal digits",
            self._run[::-1].encode(): "reversed",
        }

    def of(self, kind: str) -> str:
        """A value of a kind, such as ``header``: letters and digits."""
        assert re.fullmatch("[a-pr-z]+", kind), kind
        return f"{self._run}{kind}q"

    def address(self, kind: str) -> str:
        """An e-mail address with a mark. Its domain has none: domains may be logged."""
        return f"{self.of(kind)}@marked.example"

    def secret(self, kind: str) -> str:
        """A secret of the Standard Webhooks specification."""
        return "whsec_" + base64.b64encode(self.of(kind).ljust(33, "x").encode()).decode()

    def find(self, data: bytes) -> Counter[str]:
        """Count the marks in bytes by kind, also in other encodings."""
        found = Counter(match[1].decode().lower() for match in self._pattern.finditer(data))
        lowered = data.lower()
        # A part of the mark is enough: texts are cut.
        if not found and self._run[: _LENGTH - 2].encode() in lowered:
            found["cut"] += 1
        if b"%7a" in lowered:
            found += Counter(f"{kind} in a URL" for kind in self._in_url(data))
        for part, name in self._encoded.items():
            if part in (data if "base64" in name else lowered):
                found[name] += data.count(part) or 1
        return found

    def _in_url(self, data: bytes) -> Iterator[str]:
        plain = unquote(data.decode("latin-1")).encode("latin-1", "replace")
        for match in self._pattern.finditer(plain):
            yield match[1].decode().lower()


def _in_base64(text: str) -> Iterator[bytes]:
    """The middle of the base64 of a text at each of the three places in a group of bytes."""
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + text.encode())
        yield encoded[4 if before else 0 : -4]
