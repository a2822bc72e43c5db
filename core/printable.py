r"""Escapes characters that a terminal would obey or hide, wherever text is shown to people.

These are control characters (C0, C1, DEL, line breaks), characters that change the direction of
text, other invisible format characters, line and paragraph separators, and lone surrogates
(undecodable bytes). Joiners stay, since scripts and emoji need them.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_ESCAPE = re.compile(
    r"\\(?:(\\)|([nrt])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5}))"
)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape the hidden characters of a text: ``\x1b``, ``\u202e``.

    Args:
        keep: characters that are not escaped (line breaks, for a text of several lines).
    """
    if text.isprintable():
        return text
    return "".join([char if char in keep else _escaped(char) for char in text])


def printable_json(text: str) -> str:
    r"""Escape the hidden characters of a JSON text as JSON does: ``\u001b``.

    Line breaks stay: in JSON they only stand between values.
    """
    if text.isprintable():
        return text
    return "".join(
        [char if char == "\n" or not _is_hidden(char) else _in_json(char) for char in text]
    )


def ascii_json(text: str) -> str:
    """Escape all characters outside ASCII, for terminals and files that cannot hold them."""
    return "".join([char if char.isascii() else _in_json(char) for char in printable_json(text)])


def shown_id(id: str) -> str:
    r"""Escape an id so that :func:`read_id` can read it back. A backslash is doubled."""
    return printable(id.replace("\\", "\\\\"))


def read_id(text: str) -> str:
    r"""Read an id that :func:`shown_id` escaped; a backslash before no escape is kept."""
    return _ESCAPE.sub(_unescaped, text)


def check_id(id: str) -> str:
    """Return an id as :func:`read_id` has read it.

    Raises:
        ValueError: it has surrogates that stand for no byte, so no message can have this id.
    """
    id.encode(errors="surrogateescape")
    return id


def _is_hidden(character: str) -> bool:
    return (
        not character.isprintable()
        and unicodedata.category(character) in _HIDDEN
        and character not in _JOINERS
    )


def _escaped(character: str) -> str:
    if not _is_hidden(character):
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _unescaped(escape: re.Match[str]) -> str:
    backslash, letter, *codes = escape.groups()
    if backslash:
        return "\\"
    if letter:
        return _LETTERS[letter]
    code = int(next(filter(None, codes)), 16)
    return chr(code) if code <= 0x10FFFF else escape[0]
