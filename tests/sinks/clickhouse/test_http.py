"""The HTTP client: tests that only this protocol needs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from formrelay.core.errors import SinkTransient, SinkUnavailable
from tests.sinks.clickhouse.conftest import open_clickhouse
from tests.sinks.wire import answer, reset, serving, silence


def test_a_changed_password_is_used_from_the_next_call(modern_http_url: str) -> None:
    password = "wr0ng"
    client = open_clickhouse(modern_http_url, "default", user="relay", password=lambda: password)
    with pytest.raises(SinkTransient, match="CLICKHOUSE_PASSWORD") as caught:
        client.ping()
    assert caught.value.code == 516
    assert "wr0ng" not in str(caught.value)
    password = "relay-secret"
    client.ping()
    client.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_without_a_connection_the_sink_is_unavailable(url: str) -> None:
    with pytest.raises(SinkUnavailable):
        open_clickhouse(url, "default").ping()


@pytest.mark.parametrize(
    "answering", [answer(502, b"<html>", kind="text/html"), answer(200, b"<html>"), reset, silence]
)
def test_a_server_that_is_not_clickhouse_is_unavailable(answering: object) -> None:
    with serving(answering) as wire:  # type: ignore[arg-type]
        client = open_clickhouse(wire.url, "default", timeout=timedelta(seconds=1))
        with pytest.raises(SinkUnavailable):
            client.insert("t", ("a",), [["s3cr3t"]])
    assert not [one for one in wire.requests if b"s3cr3t" in one]


def test_proxies_from_the_environment_are_not_used(
    modern_http_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(502)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        client = open_clickhouse(modern_http_url, "default")
        client.ping()
        client.close()
        assert proxy.accepted == 0
