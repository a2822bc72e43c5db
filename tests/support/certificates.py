"""A certificate authority for tests: valid and expired certificates for localhost."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

# Python 3.13 checks certificates strictly, for instance that they have an authority key identifier.
_CONFIG = """
[ca]
default_ca = ours
[ours]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
unique_subject = no
copy_extensions = copy
x509_extensions = issued
[any]
commonName = supplied
[issued]
basicConstraints = critical,CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Signs certificates for localhost. Clients trust it with ``SSL_CERT_FILE=certificate``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate, self._key = folder / "ca.pem", folder / "ca-key.pem"
        self._config = folder / "ca.cnf"
        self._config.write_text(_CONFIG.format(folder=folder))
        (folder / "index").touch()
        (folder / "serial").write_text("01\n")
        made = ("-keyout", str(self._key), "-out", str(self.certificate))
        subject = ("-subj", "/CN=Authority of a test")
        signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("req", "-x509", *_KEY, "-days", "2", *subject, *signs, *made)

    def server_side(self, name: str, *, ends: timedelta = timedelta(days=2)) -> ssl.SSLContext:
        """A server's TLS context; its certificate expires after ``ends`` (negative: expired)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, ends=ends))
        return context

    def issue(
        self,
        name: str,
        *,
        ends: timedelta = timedelta(days=2),
        lasts: timedelta = timedelta(days=10),
    ) -> tuple[Path, Path]:
        """The files of a new certificate for localhost and of its private key.

        Args:
            ends: time until it expires (negative: expired).
            lasts: how long it is valid in all.
        """
        key, asked = self._folder / f"{name}-key.pem", self._folder / f"{name}.csr"
        signed = self._folder / f"{name}.pem"
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        _openssl("req", "-new", *_KEY, *subject, "-keyout", str(key), "-out", str(asked))
        end = datetime.now(UTC) + ends
        _openssl(
            *("ca", "-batch", "-notext", "-config", str(self._config)),
            *("-cert", str(self.certificate), "-keyfile", str(self._key), "-in", str(asked)),
            *("-startdate", _time(end - lasts), "-enddate", _time(end)),
            *("-out", str(signed)),
        )
        return signed, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def _time(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%SZ")
