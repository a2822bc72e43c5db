r"""Text without what a terminal would obey or hide: the characters that are escaped wherever
something is shown.

Escaped are control characters (C0, C1, DEL, line breaks), characters that change the direction of
the text, other invisible format characters, line and paragraph separators, and lone surrogates, as
which undecodable bytes stand in Python's text. Joiners stay, since scripts and emoji need them.
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
    r"""``text`` with ``\x1b``, ``\u202e`` and the like in place of what must not be printed.

    Args:
        keep: characters that are left as they are (line breaks, for a text of several lines).
    """
    if text.isprintable():
        return text
    return "".join([one if one in keep else _escaped(one) for one in text])


def printable_json(text: str) -> str:
    r"""The same for a text that is JSON: ``\u001b``, so that it is still the same JSON.

    Line breaks stay, since JSON has them between its values alone.
    """
    if text.isprintable():
        return text
    return "".join([one if one == "\n" or not _is_hidden(one) else _in_json(one) for one in text])


def ascii_json(text: str) -> str:
    """JSON in ASCII alone, for a terminal or a file that holds no other characters."""
    return "".join([one if one.isascii() else _in_json(one) for one in printable_json(text)])


def shown_id(id: str) -> str:
    r"""An id as it is shown; :func:`read_id` reads it. A backslash is shown as two."""
    return printable(id.replace("\\", "\\\\"))


def read_id(text: str) -> str:
    r"""The inverse of :func:`shown_id`; a backslash that begins no escape is one."""
    return _ESCAPE.sub(_unescaped, text)


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
