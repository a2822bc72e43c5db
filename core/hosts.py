"""Converts host names to ASCII by UTS 46 without transitional processing, as browsers do.

``faß.de`` is ``xn--fa-hia.de``. Python's ``idna`` codec, which the socket module uses too,
implements the older IDNA 2003: it turns the name into ``fass.de``, another domain. So names are
converted here, when they enter the program, and all later code sees ASCII.
"""

from __future__ import annotations

import ipaddress
import re

import idna

_MAX_LENGTH = 253
_MAX_LABEL_LENGTH = 63
_PREFIX = "xn--"
# Underscores are common in company networks. As in browsers, a hyphen may stand anywhere.
_LABEL = re.compile(r"[a-z0-9_-]+\Z")
_AFTER_NETLOC = re.compile(r"[/?#]")
#: Zero width non-joiner and joiner, which are allowed only next to certain characters.
_JOINERS = "\u200c\u200d"


class InvalidHost(ValueError):
    """The text is not a valid host name; the message does not quote it."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost``, or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ascii_host(host: str) -> str:
    """Convert a host name to ASCII and lower case, without a final dot.

    Args:
        host: a name in Unicode or ASCII. An IPv4 address is returned unchanged.

    Raises:
        InvalidHost: the name or a label is too long, or a label is empty or invalid by UTS 46.
    """
    # Limits the work. Four times the maximum, since the mapping removes some characters.
    if len(host) > 4 * _MAX_LENGTH:
        raise InvalidHost(f"expected a host name of at most {_MAX_LENGTH} characters")
    try:
        mapped = host.lower() if host.isascii() else idna.uts46_remap(host, std3_rules=False)
    except ValueError:
        raise InvalidHost("expected a host name without characters that UTS 46 forbids") from None
    labels = mapped.removesuffix(".").split(".")
    found = ".".join([_ascii_label(label) for label in labels])
    if len(found) > _MAX_LENGTH:
        raise InvalidHost(f"expected a host name of at most {_MAX_LENGTH} characters")
    return found


def ascii_url(url: str) -> str:
    """Convert the hosts of a URL, separated by commas, to ASCII. The rest is unchanged.

    Raises:
        InvalidHost: see :func:`ascii_host`. ASCII hosts are not checked.
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
    """Convert a mapped label to ASCII."""
    if not label:
        raise InvalidHost("expected a host name, got an empty label (two dots in a row, or none)")
    if label.startswith(_PREFIX):
        _check_punycode_label(label)
    elif not label.isascii():
        _check_unicode_label(label)
        label = _PREFIX + _to_punycode(label)
    if len(label) > _MAX_LABEL_LENGTH:
        raise InvalidHost(
            f"expected labels of at most {_MAX_LABEL_LENGTH} characters in a host name"
        )
    if not _LABEL.match(label):
        raise InvalidHost("expected a host name of letters, digits, '-', '_' and dots")
    return label


def _check_unicode_label(label: str) -> None:
    """Check the validity criteria of UTS 46, section 4.1, that the mapping does not ensure."""
    try:
        idna.check_nfc(label)
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        is_valid = all(
            idna.valid_contextj(label, index)
            for index, character in enumerate(label)
            if character in _JOINERS
        )
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidHost(
            "expected a host name whose labels are valid by UTS 46, got a misplaced "
            "joiner, combining mark or writing direction"
        )


def _check_punycode_label(label: str) -> None:
    """Refuse a label that begins with ``xn--`` but does not survive decoding and encoding."""
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
