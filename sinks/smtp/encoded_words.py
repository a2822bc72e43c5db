"""Encoded words (RFC 2047): decodes those in the input, and encodes text for a header.

The input is decoded first, since a mail program would decode it too: a subject
``=?utf-8?q?Hi=0ABcc=3A_x=40y.z?=`` contains a line feed and is refused for it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re

from ...core.errors import InvalidJob

#: Maximum length of an encoded word (RFC 2047, section 2).
MAX_WORD = 75

# As tolerant as the most tolerant mail programs: "?" in the text, and words inside other words.
_WORD = re.compile(r"=\?([^?\s]+)\?([bBqQ])\?(.*?)\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)[ \t]+(?==\?[^?\s]+\?[bBqQ]\?)")
_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")
#: Codecs of Python that are no character sets of e-mail.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"})
# C0, DEL and C1 (with NEL, U+0085), line and paragraph separator, and halves of surrogate pairs.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

#: Limits the work on words inside words.
_MAX_ROUNDS = 10

_START = "=?utf-8?"
_OVERHEAD = len(_START) + len("q??=")
#: Bytes that stand for themselves in a Q word, also inside a name (RFC 2047, section 5).
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")


def header_text(text: str, field: str, *, max_characters: int) -> str:
    """Prepare a text for a header.

    Args:
        field: name of the field, for the error.
        max_characters: maximum length of the result; four times as much may be encoded.

    Returns:
        The text with encoded words decoded, without spaces at its ends or repeated spaces.

    Raises:
        InvalidJob: it contains a control character, a line separator or half of a surrogate pair,
            or is too long. The message does not quote the text.
    """
    if not isinstance(text, str):
        raise InvalidJob(f"expected {field} to be a text, got {type(text).__name__}")
    if len(text) <= 4 * max_characters:
        text = decode(text)
        if found := _FORBIDDEN.search(text):
            raise InvalidJob(
                f"expected {field} without control characters and line separators, "
                f"got U+{ord(found[0]):04X}: remove it"
            )
        text = " ".join(filter(None, text.split(" "))).strip()
    if len(text) > max_characters:
        raise InvalidJob(
            f"expected {field} of at most {max_characters} characters, got {len(text)}: shorten it"
        )
    return text


def decode(text: str) -> str:
    """Decode all encoded words, again until there are none.

    Words whose character set is unknown or whose text is damaged stay as they are. :func:`encode`
    encodes them, so that they are shown as written.

    Raises:
        InvalidJob: they are nested too deeply.
    """
    for _ in range(_MAX_ROUNDS):
        decoded = _WORD.sub(_decode_word, _BETWEEN_WORDS.sub("", text)) if "=?" in text else text
        if decoded == text:
            return text
        text = decoded
    raise InvalidJob(
        f"expected at most {_MAX_ROUNDS} encoded words (=?…?=) inside each other, got more: "
        "send plain text"
    )


def _decode_word(match: re.Match[str]) -> str:
    charset, encoding, payload = match.groups()
    try:
        raw = payload.encode("ascii")
        if encoding in "qQ":
            raw = _HEX.sub(lambda pair: bytes.fromhex(pair[1].decode()), raw.replace(b"_", b" "))
        else:
            raw = base64.b64decode(raw + b"===")
        codec = codecs.lookup(charset.partition("*")[0])
        return match[0] if codec.name in _NO_CHARSETS else raw.decode(codec.name)
    except (LookupError, ValueError, binascii.Error):
        return match[0]


def encode(text: str, *, column: int) -> list[str]:
    """Encode a text as encoded words, in UTF-8.

    A word ends between two characters, never inside one (RFC 2047, section 5). Quoted-printable or
    base64 is used, whichever is shorter.

    Args:
        column: number of characters before the first word on its line.

    Returns:
        The words, one for each line. The white space between them is not part of the text.
    """
    data = text.encode()
    # Base64 turns 3 bytes into 4 characters.
    is_plain = sum(1 if byte in _PLAIN or byte == 32 else 3 for byte in data) <= len(data) * 4 / 3
    words = []
    word, length = "", 0
    # A line with an encoded word has at most 76 characters, the space before a word included.
    limit = MAX_WORD - max(0, column - 1) - _OVERHEAD
    for character in text:
        raw = character.encode()
        size = sum(1 if byte in _PLAIN or byte == 32 else 3 for byte in raw)
        longer = length + size if is_plain else length + len(raw)
        if word and (longer if is_plain else -(-longer // 3) * 4) > limit:
            words.append(word)
            word, longer, limit = "", longer - length, MAX_WORD - _OVERHEAD
        word, length = word + character, longer
    words.append(word)
    return [_encode_word(word, is_plain=is_plain) for word in words]


def _encode_word(text: str, *, is_plain: bool) -> str:
    data = text.encode()
    if not is_plain:
        return f"{_START}b?{base64.b64encode(data).decode('ascii')}?="
    encoded = "".join(chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in data)
    return f"{_START}q?{encoded.replace('=20', '_')}?="
