"""Host names as the network has them: in ASCII, by UTS 46 without transitional processing.

Browsers follow the same standard: ``faß.de`` is ``xn--fa-hia.de``. Python's own ``idna`` codec,
which the socket module uses as well, implements the older IDNA 2003 and turns the name into
``fass.de``, which is another domain. So a name is converted here, once, where it enters the
program; all later code sees ASCII.
"""

from __future__ import annotations

import re

import idna

_MOST_CHARACTERS = 253
_MOST_IN_A_LABEL = 63
_PREFIX = "xn--"
# Underscores are common inside of companies; a hyphen may stand anywhere, as in browsers.
_LABEL = re.compile(r"[a-z0-9_-]+\Z")
_AFTER_NETLOC = re.compile(r"[/?#]")
#: Zero width non-joiner and joiner: whether they are allowed depends on their neighbours.
_JOINERS = "\u200c\u200d"


class InvalidHost(ValueError):
    """The text is no host name. The message does not quote it."""


def ascii_host(host: str) -> str:
    """A host name in ASCII and lower case, without the dot that may end it.

    Args:
        host: a name, in Unicode or in ASCII. An IPv4 address stays as it is.

    Raises:
        InvalidHost: a label of the name is empty, too long, or not allowed by UTS 46.
    """
    # The limit is generous, as characters may be mapped to nothing. It bounds the work.
    if len(host) > 4 * _MOST_CHARACTERS:
        raise InvalidHost(f"expected a host name of at most {_MOST_CHARACTERS} characters")
    try:
        mapped = host.lower() if host.isascii() else idna.uts46_remap(host, std3_rules=False)
    except ValueError:
        raise InvalidHost("expected a host name without characters that UTS 46 forbids") from None
    labels = mapped.removesuffix(".").split(".")
    found = ".".join([_ascii_label(label) for label in labels])
    if len(found) > _MOST_CHARACTERS:
        raise InvalidHost(f"expected a host name of at most {_MOST_CHARACTERS} characters")
    return found


def ascii_url(url: str) -> str:
    """A URL with its hosts in ASCII; hosts are separated by commas. Nothing else changes.

    Raises:
        InvalidHost: see :func:`ascii_host`; hosts in ASCII are not looked at.
    """
    scheme, separator, rest = url.partition("://")
    netloc = _AFTER_NETLOC.split(rest, 1)[0]
    user, at, hosts = netloc.rpartition("@")
    if not separator or hosts.isascii():
        return url
    spelled = ",".join(map(_ascii_host_and_port, hosts.split(",")))
    return f"{scheme}://{user}{at}{spelled}{rest[len(netloc) :]}"


def _ascii_host_and_port(text: str) -> str:
    host, colon, port = text.partition(":")
    return text if text.isascii() else f"{ascii_host(host)}{colon}{port}"


def _ascii_label(label: str) -> str:
    """A label that is mapped already, in ASCII."""
    if not label:
        raise InvalidHost("expected a host name, got an empty label (two dots in a row, or none)")
    if label.startswith(_PREFIX):
        _check_punycode_label(label)
    elif not label.isascii():
        _check_unicode_label(label)
        label = _PREFIX + _to_punycode(label)
    if len(label) > _MOST_IN_A_LABEL:
        raise InvalidHost(
            f"expected labels of at most {_MOST_IN_A_LABEL} characters in a host name"
        )
    if not _LABEL.match(label):
        raise InvalidHost("expected a host name of letters, digits, '-', '_' and dots")
    return label


def _check_unicode_label(label: str) -> None:
    """The validity criteria of UTS 46, section 4.1, that do not follow from the mapping."""
    try:
        idna.check_nfc(label)
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        joins = all(
            idna.valid_contextj(label, at) for at, one in enumerate(label) if one in _JOINERS
        )
    except ValueError:
        joins = False
    if not joins:
        raise InvalidHost(
            "expected a host name whose labels are valid by UTS 46, got one with a misplaced "
            "joiner, combining mark or writing direction"
        )


def _check_punycode_label(label: str) -> None:
    """Refuse a label that says that it is encoded, and would not come out of encoding."""
    try:
        decoded = label[len(_PREFIX) :].encode("ascii").decode("punycode")
        is_mapped = idna.uts46_remap(decoded, std3_rules=False) == decoded
    except ValueError:
        is_mapped = False
    if not is_mapped or decoded.isascii() or _PREFIX + _to_punycode(decoded) != label:
        raise InvalidHost("expected labels that begin with 'xn--' to be valid Punycode")
    _check_unicode_label(decoded)


def _to_punycode(label: str) -> str:
    return label.encode("punycode").decode("ascii")
