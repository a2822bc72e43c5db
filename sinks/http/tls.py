"""Client certificates, and the causes of failed TLS connections.

libcurl reports many different failures with the same number, so the cause is found in its text
(OpenSSL's and GnuTLS's names of TLS alerts, RFC 8446, section 6.2). The text itself is not passed
on: it may quote a path or the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycurl


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client certificate, whose files libcurl reads at each new connection.

    Attributes:
        key: PEM file of the private key; None if it is in ``cert``.
        password: returns the password of the key; called for each request, since secrets rotate.
    """

    cert: Path
    key: Path | None
    password: Callable[[], str | None]

    def use(self, curl: Any) -> None:
        """Set the certificate for the next request of an easy handle."""
        curl.setopt(pycurl.SSLCERT, str(self.cert))
        curl.setopt(pycurl.SSLKEY, str(self.key or self.cert))
        # Never unset: OpenSSL would ask for the password of an encrypted key on the terminal.
        curl.setopt(pycurl.KEYPASSWD, self.password() or "")


#: Errors while TLS is set up, before anything is sent.
TLS_ERRORS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_SSL_INVALIDCERTSTATUS,
        pycurl.E_PEER_FAILED_VERIFICATION,
    }
)
#: With TLS 1.3, the other side checks our certificate after we have sent the request.
_AFTER_HANDSHAKE = frozenset({pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR, pycurl.E_GOT_NOTHING})

_WANTS_CERTIFICATE = re.compile(r"certificate.required|certificate is required")
_REFUSES_CERTIFICATE = re.compile(
    r"alert (bad certificate|unsupported certificate|certificate revoked|certificate expired"
    r"|certificate unknown|unknown ca|access denied|decrypt error)"
)
_NO_COMMON_PROTOCOL = re.compile(r"no.application.protocol|no supported application protocol")
#: OpenSSL's text for an untrusted certificate of the server has a reason, and not for ours.
_SERVER_CERTIFICATE = re.compile(r"(?:problem|verify result): (.+?)(?: \(\d+\))?\Z")


def certificate_hint(status: int, body: bytes, variable: str) -> str:
    """Explain a response of nginx about client certificates; empty for any other response.

    nginx sends it before the request reaches the application.
    """
    if status != 400:  # nginx's own 495 and 496 are sent as 400
        return ""
    if b"No required SSL certificate was sent" in body:
        return f"it wants a client certificate: set {variable}"
    if b"The SSL certificate error" in body:
        return f"it refuses the client certificate of {variable}"
    return ""


def server_certificate_error(text: str) -> str | None:
    """Why the certificate of the server is not trusted; None if the text does not tell.

    OpenSSL's text names at most the host.
    """
    found = _SERVER_CERTIFICATE.search(text)
    return found[1] if found else None


def needs_http2(code: int, text: str) -> bool:
    """Whether the server has refused the connection because it speaks no HTTP/1.1.

    Nothing was sent: the server refuses while TLS is set up (RFC 7301, section 3.2).
    """
    return code == pycurl.E_SSL_CONNECT_ERROR and bool(_NO_COMMON_PROTOCOL.search(text.lower()))


def certificate_failure(
    code: int, text: str, variable: str, *, has_certificate: bool
) -> str | None:
    """The problem with our client certificate; None if the failure has another cause.

    After this failure, the server has done nothing with the request.

    Args:
        text: libcurl's text for the error ``code``.
        variable: name of the variable of the client certificate.
    """
    text = text.lower()
    if code == pycurl.E_SSL_CERTPROBLEM or (
        code == pycurl.E_BAD_FUNCTION_ARGUMENT and has_certificate
    ):
        return f"the client certificate of {variable} or its key cannot be used: check both files"
    if code not in TLS_ERRORS and code not in _AFTER_HANDSHAKE:
        return None
    refused = _REFUSES_CERTIFICATE.search(text)
    if refused and has_certificate:
        return f"it refuses the client certificate of {variable} ({refused[1]})"
    if refused or _WANTS_CERTIFICATE.search(text):
        return f"it wants a client certificate: set {variable}"
    is_unclear = code == pycurl.E_PEER_FAILED_VERIFICATION and not server_certificate_error(text)
    if is_unclear and has_certificate:
        return f"its certificate is not trusted, or it refuses the one of {variable}"
    return None


def handshake_failure(code: int, text: str, variable: str, *, has_certificate: bool) -> str | None:
    """The two possible causes of TLS 1.2's handshake alert; None for any other failure."""
    if code != pycurl.E_SSL_CONNECT_ERROR or "alert handshake failure" not in text.lower():
        return None
    if has_certificate:
        return f"no common cipher, or it refuses the client certificate of {variable}"
    return f"no common cipher, or it wants a client certificate: set {variable}"


def lost_connection_hint(code: int, variable: str, *, has_certificate: bool) -> str:
    """A hint for a new TLS connection that broke: the receiver may miss a client certificate.

    The reset of a closed connection may overtake the alert that tells the cause.
    """
    if code not in _AFTER_HANDSHAKE:
        return ""
    verb = "refuses the" if has_certificate else "wants a"
    return f"; if it {verb} client certificate, see {variable}"
