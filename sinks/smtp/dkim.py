"""Signs messages with DKIM (RFC 6376), by the package dkimpy (extra ``dkim``).

dkimpy makes the signature. Here are the key, which is checked once, and the choice of headers.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from ...core.hosts import InvalidHost, ascii_host
from .headers import Header

_PIP = "install it with: pip install 'formrelay[dkim]'"
_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
#: dkimpy folds its header at 72 characters, also inside a longer domain.
_MAX_DOMAIN = 60
_MIN_RSA_BITS = 1024
#: Signed once more than they occur, so that nobody can add a second header that is shown instead.
_ALWAYS = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID")
_IF_PRESENT = (
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Auto-Submitted",
)
_NAME = re.compile(rb"^([!-9;-~]+):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A checked key that signs for a domain. Made by :func:`load_key`.

    Attributes:
        domain: the domain that signs (``d=``), in ASCII.
        selector: the name of the key in DNS (``s=``).
        algorithm: ``rsa-sha256`` or ``ed25519-sha256``.
        private: the private key in the form that dkimpy takes.
        record: TXT record that ``<selector>._domainkey.<domain>`` must have.
    """

    domain: str
    selector: str
    algorithm: str
    private: bytes = field(repr=False)
    record: str = field(repr=False)

    def is_aligned(self, domain: str) -> bool:
        """Whether DMARC accepts the signature for a sender of ``domain`` (relaxed alignment)."""
        return domain == self.domain or domain.endswith(f".{self.domain}")

    def sign(self, data: bytes, date: datetime) -> Header:
        """Sign a message, the same way each time.

        Args:
            data: the whole message.
            date: time of the signature (``t=``): that of the ``Date`` header.

        Returns:
            The header to put before the message.

        Raises:
            ConfigError: dkimpy is not installed, or could not sign.
        """
        dkim = _package("dkim")
        signer = dkim.DKIM(data, linesep=b"\r\n")
        time = b"%d" % int(date.timestamp())
        make_header = signer.gen_header

        # dkimpy always takes the present time.
        def make_header_at(fields: list[tuple[bytes, bytes]], *args: Any) -> Any:
            return make_header([(k, time if k == b"t" else v) for k, v in fields], *args)

        signer.gen_header = make_header_at
        try:
            line = signer.sign(
                self.selector.encode("ascii"),
                self.domain.encode("ascii"),
                self.private,
                signature_algorithm=self.algorithm.encode("ascii"),
                canonicalize=(b"relaxed", b"relaxed"),
                include_headers=_signed_headers(data),
            )
        except dkim.DKIMException as error:
            raise ConfigError(f"DKIM: dkimpy could not sign ({type(error).__name__})") from None
        if b"; t=" + time + b";" not in line.replace(b"\r\n", b""):
            raise ConfigError(
                "DKIM: expected dkimpy >= 1.1 and < 2, got a version without gen_header"
            )
        name, _, value = line.decode("ascii").removesuffix("\r\n").partition(": ")
        return Header(name, value)


def load_key(path: Path, domain: str, selector: str, *, variable: str) -> DkimKey:
    """Read a private key: PEM (PKCS#1 or PKCS#8) of RSA or Ed25519, or dkimpy's base64 of Ed25519.

    Args:
        variable: name of the variable with the path, for errors.

    Raises:
        ConfigError: a package is missing, the file cannot be read, it has no such key or an
            encrypted one, or the domain or the selector is invalid.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"expected {variable} to be a readable file with a DKIM key, got: {error.strerror}"
        ) from None
    _package("dkim")
    return make_key(pem, domain, selector, variable=variable)


def make_key(pem: bytes, domain: str, selector: str, *, variable: str) -> DkimKey:
    """Like :func:`load_key`, with the content of the file."""
    try:
        host = ascii_host(domain)
    except InvalidHost as error:
        raise ConfigError(f"DKIM: in the domain: {error}") from None
    if len(host) > _MAX_DOMAIN or len(selector) > _MAX_DOMAIN or not _SELECTOR.fullmatch(selector):
        raise ConfigError(
            f"DKIM: expected a domain and a selector of at most {_MAX_DOMAIN} characters, "
            "the selector of letters, digits, '-', '_' and dots"
        )
    algorithm, private, record = _parse(pem, variable)
    return DkimKey(host, selector, algorithm, private, record)


def _parse(pem: bytes, variable: str) -> tuple[str, bytes, str]:
    """The algorithm, the key for dkimpy and the TXT record.

    Raises:
        ConfigError: see :func:`load_key`.
    """
    rsa = _package("cryptography.hazmat.primitives.asymmetric.rsa")
    ed25519 = _package("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = _load(pem, variable)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        _package("nacl.signing")
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")
        private = base64.b64encode(key.private_bytes_raw())
        return "ed25519-sha256", private, f"v=DKIM1; k=ed25519; p={public}"
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _MIN_RSA_BITS:
        raise ConfigError(
            f"expected {variable} to have an Ed25519 key or an RSA key of at least "
            f"{_MIN_RSA_BITS} bits, got another kind of key"
        )
    forms = _package("cryptography.hazmat.primitives.serialization")
    private = key.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption()
    )
    der = key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    public = base64.b64encode(der).decode("ascii")
    return "rsa-sha256", private, f"v=DKIM1; k=rsa; p={public}"


def _load(pem: bytes, variable: str) -> Any:
    """The private key as an object of the package cryptography."""
    forms = _package("cryptography.hazmat.primitives.serialization")
    ed25519 = _package("cryptography.hazmat.primitives.asymmetric.ed25519")
    try:
        if b"-----BEGIN" not in pem:
            seed = base64.b64decode(pem.strip(), validate=True)
            return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        return forms.load_pem_private_key(pem, password=None)
    except TypeError:  # no password was given
        raise ConfigError(
            f"expected {variable} to have a DKIM key without a password, got an encrypted key: "
            "decrypt it with: openssl pkey -in FILE -out NEW_FILE"
        ) from None
    except Exception:  # cryptography raises errors of several kinds, which may quote the key
        raise ConfigError(
            f"expected {variable} to have a private RSA or Ed25519 key in PEM, got something else: "
            "make one with: openssl genrsa -out FILE 2048"
        ) from None


def _signed_headers(data: bytes) -> list[bytes]:
    """Names of the headers to sign, each once more than it occurs."""
    head = data.partition(b"\r\n\r\n")[0]
    present = [name.lower() for name in _NAME.findall(head)]
    always = [name.lower().encode("ascii") for name in _ALWAYS]
    others = [name.lower().encode("ascii") for name in _IF_PRESENT]
    names = always + [name for name in others if name in present]
    return [name for name in names for _ in range(present.count(name) + 1)]


def _package(name: str) -> Any:
    """Import a module at its first use.

    Raises:
        ConfigError: its package is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"DKIM needs the package {name.partition('.')[0]}: {_PIP}") from None
