"""DKIM signatures, verified by dkimpy with keys from a dictionary instead of DNS."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from formrelay.core.errors import ConfigError
from formrelay.sinks.smtp.dkim import DkimKey, load_key, make_key
from formrelay.sinks.smtp.message import Attachment, write
from tests.sinks.smtp.emails import DATE, assert_sendable, make, names, value

dkim = pytest.importorskip("dkim")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
forms = pytest.importorskip("cryptography.hazmat.primitives.serialization")

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any, *, form: str = "PKCS8", password: bytes | None = None) -> bytes:
    """A private key in PEM."""
    encryption = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    found: bytes = key.private_bytes(
        forms.Encoding.PEM, getattr(forms.PrivateFormat, form), encryption
    )
    return found


def key_of(content: bytes, domain: str = "example.com", selector: str = "form1") -> DkimKey:
    """The key of a file's content."""
    return make_key(content, domain, selector, variable="EMAIL_DKIM_KEY_FILE")


def verify(data: bytes, key: DkimKey) -> bool:
    """Whether dkimpy accepts the signature."""

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        assert name == f"{key.selector}._domainkey.{key.domain}.".encode()
        return key.record.encode()

    found: bool = dkim.verify(data, dnsfunc=look_up)
    return found


KEYS: dict[str, Callable[[], bytes]] = {
    "rsa PKCS#8": lambda: pem(RSA),
    "rsa PKCS#1": lambda: pem(RSA, form="TraditionalOpenSSL"),
    "rsa with CRLF": lambda: pem(RSA).replace(b"\n", b"\r\n"),
    "ed25519 PKCS#8": lambda: pem(ED25519),
    "ed25519 as dknewkey writes it": lambda: base64.b64encode(ED25519.private_bytes_raw()) + b"\n",
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_is_verified(kind: str) -> None:
    key = key_of(KEYS[kind]())
    email = make(
        sign=key,
        to=['"Doe, Ann" <ann@example.org>', "Jörg Müller <j@x.y>", "jörg@x.y"],
        subject="Grüße " * 50,
        html="<p>a  b \n\n",
        attachments=[Attachment("ä.pdf", b"x" * 500, "application/pdf")],
        kind="list",
        unsubscribe_url="https://example.com/" + "u" * 300,
    )
    data = write(email)
    assert_sendable(data, is_utf8=True)
    assert names(data)[0] == "DKIM-Signature"
    assert verify(data, key)
    assert write(email) == data
    assert key.algorithm == ("rsa-sha256" if "rsa" in kind else "ed25519-sha256")


def tags(data: bytes) -> dict[str, str]:
    """The tags of the signature."""
    pairs = value(data, "DKIM-Signature").replace(" ", "").split(";")
    return {name: text for name, _, text in (pair.partition("=") for pair in pairs)}


def test_the_tags_of_the_signature() -> None:
    data = write(make(sign=key_of(pem(RSA)), unsubscribe_url="https://x.y", kind="autoresponse"))
    found = tags(data)
    assert (found["c"], found["d"], found["s"]) == ("relaxed/relaxed", "example.com", "form1")
    assert found["t"] == str(int(DATE.timestamp()))
    assert "l" not in found
    signed = found["h"].split(":")
    for name in ("from", "to", "subject", "date", "message-id", "content-type", "mime-version"):
        assert signed.count(name) == 2, name
    assert signed.count("list-unsubscribe") == signed.count("list-unsubscribe-post") == 2
    assert signed.count("cc") == signed.count("reply-to") == 1
    assert signed.count("auto-submitted") == 2
    assert "bcc" not in signed


def test_the_time_of_the_signature_is_that_of_the_job() -> None:
    key = key_of(pem(RSA))
    earlier = DATE - timedelta(days=400)
    data = write(make(sign=key, date=earlier))
    assert tags(data)["t"] == str(int(earlier.timestamp()))
    assert verify(data, key)


@pytest.mark.parametrize(
    "added",
    [
        *(b"From: evil@x.y\r\n", b"Subject: Other\r\n", b"To: evil@x.y\r\n", b"Cc: evil@x.y\r\n"),
        *(b"Reply-To: evil@x.y\r\n", b"Date: Mon, 30 Nov 2026 18:30:05 +0000\r\n"),
        *(b"Content-Type: text/html\r\n", b"List-Unsubscribe: <https://evil.example>\r\n"),
    ],
)
def test_no_second_header_can_be_added(added: bytes) -> None:
    key = key_of(pem(RSA))
    data = write(make(sign=key, unsubscribe_url="https://x.y"))
    assert verify(b"X-Other: a\r\n" + data, key)
    head, _, body = data.partition(b"MIME-Version:")
    assert not verify(head + added + b"MIME-Version:" + body, key)
    assert not verify(added + data, key)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Thank you", b"Thank me"),
        (b"ann@example.org", b"bob@example.org"),
        (b"List-Unsubscribe=One-Click", b"List-Unsubscribe=Two"),
        (b"<https://x.y/>", b"<https://evil.example/>"),
        (b"Hello", b"Hallo"),
        (b"\r\nHello", b"\r\nHello\r\nHello"),
    ],
)
def test_a_changed_message_is_not_verified(old: bytes, new: bytes) -> None:
    key = key_of(pem(RSA))
    data = write(make(sign=key, unsubscribe_url="https://x.y"))
    assert old in data
    assert not verify(data.replace(old, new), key)


def test_white_space_that_relays_change_does_not_matter() -> None:
    key = key_of(pem(ED25519))
    data = write(make(sign=key, text="a b\n"))
    assert verify(data.replace(b"Subject: Thank you", b"subject:  Thank\r\n\tyou"), key)
    assert verify(data + b"\r\n\r\n", key)


@pytest.mark.parametrize("length", [1, 30, 60])
def test_long_domains_and_selectors_are_signed(length: int) -> None:
    domain = ("d" * length)[: length - 3] + ".de" if length > 4 else "x"
    key = key_of(pem(RSA), domain, "s" * length)
    assert verify(write(make(sign=key)), key)


def test_the_domain_is_converted_to_ascii() -> None:
    key = key_of(pem(RSA), "exämple.com")
    assert key.domain == "xn--exmple-cua.com"
    assert key.is_aligned("xn--exmple-cua.com")
    assert key.is_aligned("mail.xn--exmple-cua.com")
    assert not key.is_aligned("notxn--exmple-cua.com")


WRONG = {
    "empty": b"",
    "a public key": RSA.public_key().public_bytes(
        forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo
    ),
    "no PEM": b"this is no key",
    "half of a file": pem(RSA)[:900],
    "a damaged RSA key": b"".join(sorted(pem(RSA).splitlines(keepends=True)[1:-1])).join(
        (b"-----BEGIN PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----\n")
    ),
    "an EC key": pem(ec.generate_private_key(ec.SECP256R1())),
    "an encrypted key": pem(RSA, password=b"secret"),
    "a short Ed25519 key": base64.b64encode(b"x" * 31),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_key_file_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(WRONG[kind])
    with pytest.raises(ConfigError, match="EMAIL_DKIM_KEY_FILE") as caught:
        load_key(path, "example.com", "form1", variable="EMAIL_DKIM_KEY_FILE")
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_is_read_from_its_file_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(RSA))
    key = load_key(path, "example.com", "form1", variable="EMAIL_DKIM_KEY_FILE")
    assert "PRIVATE" not in repr(key)
    assert "p=" not in repr(key)
    with pytest.raises(ConfigError, match="EMAIL_DKIM_KEY_FILE to be a readable file"):
        load_key(tmp_path / "no", "example.com", "form1", variable="EMAIL_DKIM_KEY_FILE")


@pytest.mark.parametrize(
    ("domain", "selector"),
    [
        *(("", "form1"), ("a b", "form1"), ("x.y;d=evil", "form1"), ("x.y", "")),
        *(("x.y", "a;b"), ("x.y", "-a"), ("x.y", "ä"), ("x.y", "a\n"), ("d" * 61, "a")),
        *(("x.y", "s" * 61), ("x..y", "a")),
    ],
)
def test_a_wrong_domain_or_selector_is_refused(domain: str, selector: str) -> None:
    with pytest.raises(ConfigError, match="DKIM: "):
        key_of(pem(RSA), domain, selector)


@pytest.mark.parametrize("module", ["dkim", "cryptography.hazmat.primitives.serialization"])
def test_without_its_packages_the_pip_line_is_given(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(RSA))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'formrelay\[dkim\]'"):
        load_key(path, "example.com", "form1", variable="EMAIL_DKIM_KEY_FILE")
