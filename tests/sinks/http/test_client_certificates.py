"""Client certificates, checked by real servers, and the errors without the right one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from formrelay.core.errors import (
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    SinkUnready,
)
from formrelay.sinks.api import Api
from formrelay.sinks.http import ClientCertificate, raise_for_status
from formrelay.sinks.http.egress import _hint
from tests.sinks.http.h2_server import node_server
from tests.sinks.http.test_egress import egress
from tests.sinks.wire import answer, reset, serving
from tests.support.certificates import Authority

OK = answer(200, b'{"id": "s", "status": "draft", "webhooks": []}')


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ours"))
    authority.issue("server")
    return authority


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def asking(request: pytest.FixtureRequest, ours: Authority) -> ssl.SSLContext:
    """A server's TLS context that requires a client certificate of ``ours``."""
    context = ours.server_side("asking")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ours.certificate)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[request.param]
    return context


def certificate(files: tuple[Path, Path], password: str | None = None) -> ClientCertificate:
    return ClientCertificate(*files, lambda: password)


@pytest.fixture(params=["egress", "api"])
def call(
    request: pytest.FixtureRequest, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int, ClientCertificate | None], object]:
    """Sends a request to a port with a certificate, as a webhook and to the API."""
    monkeypatch.setattr("formrelay.sinks.http.curl.system_ca_file", lambda: str(ours.certificate))

    def send_webhook(port: int, own: ClientCertificate | None) -> object:
        url = f"https://localhost:{port}/"
        return egress(timeout=timedelta(seconds=5), certificate=own).send("POST", url, {}, b"{}")

    def call_api(port: int, own: ClientCertificate | None) -> object:
        wait = timedelta(seconds=5)
        api = Api(f"https://localhost:{port}", lambda: None, wait, wait, certificate=own)
        return api.get_submission("s")

    return send_webhook if request.param == "egress" else call_api


Call = Callable[[int, ClientCertificate | None], object]


def error_of(call: Call, port: int, own: ClientCertificate | None) -> SinkError:
    with pytest.raises(SinkError) as caught:
        call(port, own)
    # The receiver has done nothing: the job waits, or is retried.
    assert isinstance(caught.value, SinkUnavailable | SinkUnready)
    return caught.value


def test_a_server_that_asks_gets_the_certificate(
    call: Call, asking: ssl.SSLContext, ours: Authority
) -> None:
    with serving(OK, tls=asking) as wire:
        assert call(wire.port, certificate(ours.issue("client")))
        assert len(wire.requests) == 1


def test_a_server_that_does_not_ask_is_not_disturbed(call: Call, ours: Authority) -> None:
    with serving(OK, tls=ours.server_side("plain")) as wire:
        assert call(wire.port, certificate(ours.issue("client")))


def test_a_server_that_wants_a_certificate_is_told_from_a_broken_server(
    call: Call, ours: Authority
) -> None:
    with node_server(ours, "mtls") as port:
        said = str(error_of(call, port, None))
    assert "wants a client certificate: set " in said
    assert "_CLIENT_CERT_FILE" in said


def test_without_a_certificate_the_error_says_that_one_is_wanted(
    call: Call, asking: ssl.SSLContext
) -> None:
    with serving(OK, tls=asking) as wire:
        said = str(error_of(call, wire.port, None))
        assert wire.requests == []
    assert "it wants a client certificate: set " in said
    # TLS 1.2 has one alert for both.
    is_old = asking.maximum_version is ssl.TLSVersion.TLSv1_2
    assert ("no common cipher, or" in said) is is_old


def test_a_reset_that_overtakes_the_alert_is_told_with_both_causes(ours: Authority) -> None:
    with serving(reset, tls=ours.server_side("reset")) as wire:
        sender = egress(timeout=timedelta(seconds=5), ca_file=str(ours.certificate))
        with pytest.raises(SinkTransient, match=r"lost.*if it wants a client certificate, see"):
            sender.send("POST", f"https://localhost:{wire.port}/", {}, b"{}")


def test_a_certificate_of_another_authority_is_an_error_that_says_so(
    call: Call, asking: ssl.SSLContext, theirs: Authority
) -> None:
    with serving(OK, tls=asking) as wire:
        said = str(error_of(call, wire.port, certificate(theirs.issue("client"))))
        assert wire.requests == []
    assert "it refuses the client certificate of " in said
    assert "(unknown ca)" in said


def test_an_expired_certificate_is_an_error_that_says_so(
    call: Call, asking: ssl.SSLContext, ours: Authority
) -> None:
    own = certificate(ours.issue("old", ends=timedelta(days=-1)))
    with serving(OK, tls=asking) as wire:
        said = str(error_of(call, wire.port, own))
    assert "(certificate expired)" in said or "or it refuses the one of" in said


def test_renewed_files_are_used_without_a_restart(
    asking: ssl.SSLContext, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    files = tmp_path / "cert.pem", tmp_path / "key.pem"

    def renew(authority: Authority) -> None:
        for source, target in zip(authority.issue("client"), files, strict=True):
            shutil.copy(source, target)

    sender = egress(
        timeout=timedelta(seconds=5), ca_file=str(ours.certificate), certificate=certificate(files)
    )
    with serving(OK, tls=asking) as wire:
        url = f"https://localhost:{wire.port}/"
        renew(theirs)
        with pytest.raises(SinkUnavailable, match="unknown ca"):
            sender.send("POST", url, {}, b"{}")
        files[1].unlink()  # half of a renewal
        with pytest.raises(SinkUnavailable, match="cannot be used: check both files"):
            sender.send("POST", url, {}, b"{}")
        renew(ours)
        for _ in range(3):
            assert sender.send("POST", url, {}, b"{}").status == 200
        assert len(wire.requests) == 3
        assert wire.accepted == 3, "connections with a client certificate are kept"


def test_an_encrypted_key_without_its_password_fails_and_asks_nobody(
    call: Call, asking: ssl.SSLContext, ours: Authority, tmp_path: Path
) -> None:
    cert, key = ours.issue("client")
    locked = tmp_path / "locked.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-out", str(locked)]
    subprocess.run([*command, "-passout", "pass:hunter2"], check=True, capture_output=True)
    with serving(OK, tls=asking) as wire:
        assert call(wire.port, certificate((cert, locked), "hunter2"))
        for wrong in (None, "hunter3"):
            said = str(error_of(call, wire.port, certificate((cert, locked), wrong)))
            assert "cannot be used: check both files" in said
            assert "hunter" not in said


NGINX = "<title>400 No required SSL certificate was sent</title>"


def test_the_page_of_nginx_for_a_missing_certificate_is_recognized(ours: Authority) -> None:
    with pytest.raises(SinkPermanent, match="wants a client certificate: set WEBHOOK_CLIENT_CERT"):
        raise_for_status(400, {}, 0, body=NGINX.encode())
    assert "refuses" in _hint(400, b"<title>400 The SSL certificate error</title>")
    assert _hint(400, b"{}") == _hint(422, NGINX.encode()) == ""
    wait = timedelta(seconds=5)
    with serving(answer(400, NGINX.encode(), kind="text/html")) as wire:
        api = Api(wire.url, lambda: None, wait, wait)
        # Not permanent: the submissions must not become dead letters.
        with pytest.raises(SinkUnready, match="answered 400: it wants a client certificate"):
            api.get_submission("s")
