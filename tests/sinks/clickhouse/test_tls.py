"""TLS over both protocols: which certificates are accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.core.errors import SinkUnavailable
from tests.conftest import own
from tests.sinks.clickhouse.conftest import modern_http, open_clickhouse
from tests.support.servers import ClickHouseServer
from tests.support.servers.base import free_port

_MORE = """    <tcp_port_secure>{port}</tcp_port_secure>
    <openSSL><server>
        <certificateFile>{certificate}</certificateFile>
        <privateKeyFile>{certificate}</privateKeyFile>
        <verificationMode>none</verificationMode>
    </server></openSSL>
"""


@pytest.fixture(scope="module")
def native_port(certificate: Path) -> Iterator[int]:
    """TLS port of a native server."""
    server = own(ClickHouseServer)
    port = free_port()
    server.configure(_MORE.format(port=port, certificate=certificate))
    with server:
        yield port


@pytest.fixture(scope="module")
def http_port(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """TLS port of an HTTP server."""
    with modern_http(tmp_path_factory.mktemp("chdb_https") / "data", certificate) as port:
        yield port


@pytest.fixture(
    params=[pytest.param("clickhouses", marks=pytest.mark.clickhouse), "https"],
)
def secure_url(request: pytest.FixtureRequest) -> str:
    """URL with the host of the certificate."""
    name = "native_port" if request.param == "clickhouses" else "http_port"
    return f"{request.param}://localhost:{request.getfixturevalue(name)}"


def test_a_certificate_that_the_system_trusts_is_accepted(
    secure_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = open_clickhouse(secure_url, "default", user="relay", password=lambda: "relay-secret")
    assert client.query("SELECT 1") == [(1,)]
    client.close()


def test_an_untrusted_certificate_is_refused(secure_url: str) -> None:
    client = open_clickhouse(secure_url, "default", password=lambda: "s3cr3t")
    with pytest.raises(SinkUnavailable) as caught:
        client.ping()
    assert "s3cr3t" not in str(caught.value)


def test_a_certificate_for_another_host_is_refused(
    secure_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = open_clickhouse(secure_url.replace("localhost", "127.0.0.1"), "default")
    with pytest.raises(SinkUnavailable):
        client.ping()
