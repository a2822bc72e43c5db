"""Groups failures by the type of their error and its normalised text.

Normalising replaces the parts that differ each time, such as ids and numbers, by placeholders.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

from .failure import Failure
from .redaction import MARK

#: Maximum length of a normalised text, and of the text that is read, in characters.
MAX_LENGTH = 240
_MAX_READ = 2_000
#: Maximum length of a word. A longer word is a token or encoded data.
_MAX_WORD = 60
#: Number of characters in the id of a group.
GROUP_ID_LENGTH = 10

_TEXT, _NUMBER, _ID = "<text>", "<number>", "<id>"
_URL, _ADDRESS, _PATH = "<url>", "<address>", "<path>"
_PLACEHOLDER = re.compile(r"(<(?:text|number|id|url|address|path)>)")
#: Text in quotes. An apostrophe inside a word, or next to a placeholder for a part of a word, is no
#: quote. Each search ends at the next quote, so matching takes linear time.
_QUOTED = re.compile(
    r"""(?<![\w>])(?:"[^"]*"|'[^']*'|`[^`]*`)(?![\w<])|“[^”]*”|‘[^’]*’|«[^»]*»|„[^“]*“"""
)
_IPV6 = re.compile(r"[0-9a-fA-F.:%]*:[0-9a-fA-F.]*:[0-9a-fA-F.:%\w]*")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VARIABLE = re.compile(
    rf"(?P<uuid>{_UUID.pattern})|(?P<hex>0[xX][0-9a-fA-F]+)"
    r"|(?P<run>[A-Za-z0-9]{8,})|(?P<number>\d+(?:[.,:]\d+)*)"
)
_HEX = re.compile(r"[0-9a-fA-F]+")
_DIGITS = re.compile(r"\d+")
_BEFORE, _AFTER = "([{,;:=", ")]},.;:!?="


def normalise(text: str) -> str:
    """Replace the parts of an error text that differ between two failures of the same kind.

    Numbers, ids, e-mail and IP addresses, URLs, paths, quoted texts and very long words become
    placeholders such as ``<number>``. Takes linear time; normalising the result changes nothing.

    Returns:
        At most :data:`MAX_LENGTH` characters.
    """
    text = text[:_MAX_READ]
    # A replaced word may have contained a quote that was between two others.
    for _ in range(_MAX_READ):
        before, text = text, _normalised_once(text)
        if text == before:
            break
    return text


def _normalised_once(text: str) -> str:
    length, kept = 0, []
    for word in _QUOTED.sub(_TEXT, text).split():
        short = _normalised_word(word)
        length += len(short) + 1
        if length > MAX_LENGTH + 1:
            break
        kept.append(short)
    return " ".join(kept)


def _normalised_word(word: str) -> str:
    start = len(word) - len(word.lstrip(_BEFORE))
    end = len(word.rstrip(_AFTER))
    core = word[start:end]
    if start >= end or len(word) > 2 * _MAX_WORD:
        return word if len(word) <= _MAX_WORD else _TEXT
    return word[:start] + _normalised_core(core) + word[end:]


def _normalised_core(core: str) -> str:
    if _PLACEHOLDER.fullmatch(core):
        return core
    if "://" in core:
        return _URL
    if "@" in core or _IPV6.fullmatch(core):
        return _ADDRESS
    if core.startswith(("/", "./", "../", "~/")) or core.count("/") > 1 or _DRIVE.match(core):
        return _PATH
    pieces = _PLACEHOLDER.split(core)
    pieces[::2] = [_VARIABLE.sub(_placeholder, piece) for piece in pieces[::2]]
    found = "".join(pieces)
    return found if len(found) <= _MAX_WORD else _TEXT


def _placeholder(found: re.Match[str]) -> str:
    text = found[0]
    if found["number"]:
        return _NUMBER
    if not found["run"]:
        return _ID
    if text.isdecimal():
        return _NUMBER
    if _DIGITS.search(text) and (len(text) >= 16 or _HEX.fullmatch(text)):
        return _ID
    return _DIGITS.sub(_NUMBER, text)


def group_id(failure: Failure | None) -> str:
    """Return the id of the group that a failure belongs to.

    The id is the same in every process and version for the same error type and normalised text.

    Args:
        failure: None for a message that was dead-lettered outside formrelay.
    """
    if failure is None:
        return _group_id("", "")
    return _group_id(failure.error, failure.message[:_MAX_READ])


def is_error(failure: Failure | None, sought: str) -> bool:
    """Whether a failure is an error that a person looks for.

    Upper and lower case are the same.

    Args:
        sought: the error's type (``module.QualName`` or its last part), or a part of its text: as
            it is, or as its group shows it, with placeholders and with ``[…]`` for payload values.
            An empty text matches nothing.
    """
    sought = sought.strip().lower()
    if failure is None or not sought:
        return False
    if f".{failure.error}".lower().endswith(f".{sought}"):
        return True
    parts = [part for part in sought.split(MARK) if part]
    text = failure.message.lower()
    return _has_in_order(text, parts) or _has_in_order(_normalised(failure.message), parts)


def _has_in_order(text: str, parts: list[str]) -> bool:
    at = 0
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return bool(parts)


@lru_cache(maxsize=128)
def _normalised(message: str) -> str:
    return normalise(message).lower()


@lru_cache(maxsize=128)
def _group_id(error: str, message: str) -> str:
    text = f"{error}\0{normalise(message)}".encode(errors="backslashreplace")
    return blake2b(text, digest_size=GROUP_ID_LENGTH // 2).hexdigest()
