"""Client certificates (mTLS): two variables that name PEM files, checked at the start.

libcurl reads the files at each new connection, so renewed files need no restart.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from ..core.clock import SYSTEM_CLOCK
from .base import Section
from .expected import Expected, shown
from .secrets import read_content

CERT_HELP = (
    "PEM file of the client certificate, followed by its intermediate certificates, for {}. Read "
    "again at each new connection."
)
KEY_HELP = "PEM file of its private key. Default: the key is in CLIENT_CERT_FILE."
PASSWORD_HELP = "Password of the private key, if it is encrypted."  # noqa: S105 - no password

_CERTIFICATE = re.compile(
    r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.MULTILINE
)
#: A certificate that expires sooner is warned of.
_SOON = timedelta(days=14)


def _pem(label: str) -> BeforeValidator:
    """Make the validator of the path of a PEM file that has a block with this label."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            return value
        path = Path(value)
        _, content = read_content(path)
        if not re.search(rb"-----BEGIN [A-Z ]*%b-----" % label.encode(), content):
            raise Expected(f"be a PEM file with a {label}", got="another file", inside=True)
        return path

    return BeforeValidator(check)


CertificateFile = Annotated[Path, _pem("CERTIFICATE")]
KeyFile = Annotated[Path, _pem("PRIVATE KEY")]


class CertificateSection(Section):
    """A group of settings with a client certificate, whose two files are checked together."""

    if TYPE_CHECKING:  # each group declares the fields at the place where the documents list them
        client_cert_file: Path | None
        client_key_file: Path | None

    def faults(self) -> Iterator[tuple[str, str]]:
        names = {name: f"{self.prefix}CLIENT_{name}" for name in ("CERT_FILE", "KEY_FILE")}
        cert, key = self.client_cert_file, self.client_key_file
        if cert is None:
            if key is not None:
                yield (
                    names["CERT_FILE"],
                    f"expected {names['CERT_FILE']} to be set, because {names['KEY_FILE']} is, got "
                    "nothing: name the file of the certificate",
                )
            return
        password = self.secret("client_key_password") or ""
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, lambda: password)
        except (ssl.SSLError, OSError, ValueError) as error:
            variable = names["KEY_FILE"] if key is not None else names["CERT_FILE"]
            yield variable, _why(self.prefix, variable, key or cert, error, password)

    def warnings(self) -> Iterator[str]:
        cert = self.client_cert_file
        if cert is None:
            return
        try:
            found = _CERTIFICATE.search(read_content(cert)[1].decode("latin-1"))
            begins, ends = validity(ssl.PEM_cert_to_DER_cert(found[0] if found else ""))
        except (Expected, ValueError, IndexError):
            return  # an error, if OpenSSL cannot read it either
        now = datetime.fromtimestamp(SYSTEM_CLOCK.time(), UTC)
        where = f"the client certificate of {self.prefix}CLIENT_CERT_FILE ({shown(str(cert))})"
        if ends <= now:
            yield f"{where} expired at {ends:%Y-%m-%d %H:%M} UTC: renew it"
        elif ends - now < _SOON:
            yield f"{where} expires at {ends:%Y-%m-%d %H:%M} UTC: renew it"
        if now < begins:
            yield f"{where} is not valid before {begins:%Y-%m-%d %H:%M} UTC: check the clock"


def _why(prefix: str, variable: str, path: Path, error: Exception, password: str) -> str:
    """The error for a certificate and a key that OpenSSL does not load together."""
    reason = str(getattr(error, "reason", None) or "")
    if reason.endswith("_MISMATCH"):
        return (
            f"expected {variable} to be the private key of {prefix}CLIENT_CERT_FILE, got the key "
            f"of another certificate ({shown(str(path))})"
        )
    try:
        content = read_content(path)[1]
    except Expected as unreadable:  # it was readable a moment ago
        return unreadable.line(variable, raw=str(path), secret=False)
    if b"PRIVATE KEY-----" not in content:
        return (
            f"expected {variable} to contain the private key too, got a certificate alone: add the "
            f"key, or name its file in {prefix}CLIENT_KEY_FILE"
        )
    if b"ENCRYPTED" in content:
        name, got = f"{prefix}CLIENT_KEY_PASSWORD", "another password" if password else "nothing"
        return f"expected {name} to be the password of the private key in {variable}, got {got}"
    return (
        f"expected a certificate and a private key in PEM that OpenSSL accepts in "
        f"{prefix}CLIENT_CERT_FILE and {variable}, got: {reason or type(error).__name__}"
    )


def validity(der: bytes) -> tuple[datetime, datetime]:
    """Begin and end of the validity of a certificate (RFC 5280, section 4.1).

    Raises:
        ValueError, IndexError: the bytes are no certificate.
    """
    _, place, _ = _element(der, 0)  # Certificate
    _, place, _ = _element(der, place)  # TBSCertificate
    tag, _, end = _element(der, place)
    if tag == 0xA0:  # version, which is optional
        place = end
    for _ in range(3):  # serial number, algorithm of the signature, issuer
        place = _element(der, place)[2]
    _, place, _ = _element(der, place)
    times = []
    for _ in range(2):
        tag, start, place = _element(der, place)
        times.append(_time(tag, der[start:place].decode("ascii")))
    return times[0], times[1]


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of an ASN.1 element."""
    tag, length, start = der[place], der[place + 1], place + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    return tag, start, start + length


def _time(tag: int, text: str) -> datetime:
    if tag == 0x17:  # UTCTime: years from 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
