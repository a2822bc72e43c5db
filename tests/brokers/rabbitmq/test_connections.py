"""URLs and connections; a server that does not answer is an error within the timeout."""

from __future__ import annotations

import os
import ssl
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from formrelay.brokers.contract import BrokerOptions
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.brokers.rabbitmq.servers import servers
from formrelay.core.errors import ConfigError
from tests.brokers.rabbitmq.conftest import MakeHarness, api, vhost_of
from tests.support.servers.base import free_port

pytestmark = [pytest.mark.rabbitmq, pytest.mark.shared_vhost]

SECONDS = timedelta(seconds=1)
QUICK = BrokerOptions(connect_timeout=SECONDS)


def test_any_of_several_hosts_is_used(make_harness: MakeHarness, rabbitmq_url: str) -> None:
    url = urlsplit(rabbitmq_url)
    dead = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    login, _, place = url.netloc.rpartition("@")
    hosts = ",".join([*dead, place])
    for text in (
        f"amqp://{login}@{hosts}{url.path}",
        ";".join([*(f"amqp://{login}@{one}{url.path}" for one in dead), rabbitmq_url]),
    ):
        harness = make_harness(url=text)
        for _ in range(5):
            harness.broker.ping()
    harness = make_harness(url=f"amqp://{login}@{','.join(dead)}{url.path}")
    with pytest.raises(
        BrokerUnavailable, match=r"expected one of the RabbitMQ servers .* to answer"
    ) as raised:
        harness.broker.ping()
    assert all(one in str(raised.value) for one in dead)


def test_user_and_password_may_contain_any_character(
    make_harness: MakeHarness, rabbitmq_url: str, unique: str
) -> None:
    base = os.environ["FORMRELAY_TEST_RABBITMQ_API_URL"]
    password = "p@ss:w/rd?#[]%,; é&=+"
    harness = make_harness()
    user = f"u{unique}"
    api(base, f"users/{user}", method="PUT", body={"password": password, "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    vhost = vhost_of(rabbitmq_url)
    place = urlsplit(rabbitmq_url).netloc.rpartition("@")[2]
    try:
        api(base, f"permissions/{vhost}/{user}", method="PUT", body=everything)
        encoded = "p%40ss%3Aw%2Frd%3F%23%5B%5D%25%2C%3B%20%C3%A9%26%3D%2B"
        for written in (encoded, password):
            harness = make_harness(url=f"amqp://{user}:{written}@{place}/{vhost}")
            harness.broker.ping()
        harness = make_harness(url=f"amqp://{user}:wrong@{place}/{vhost}")
        with pytest.raises(BrokerRefused, match="accept the user and password") as raised:
            harness.broker.ping()
        assert "wrong" not in str(raised.value)
        harness = make_harness(url=f"amqp://{user}:{encoded}@{place}/not-there")
        with pytest.raises(BrokerRefused, match="let the user into the virtual host"):
            harness.broker.ping()
    finally:
        api(base, f"users/{user}", method="DELETE")


@pytest.mark.parametrize(
    "url", ["http://host", "amqp:/host", "host", "amqp://h:port", "amqp://h/%2F?cafile=x", ""]
)
def test_an_invalid_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError):
        servers(url, timeout=SECONDS)


def test_a_url_is_parsed_as_by_pika() -> None:
    (one,) = servers("amqp://me:word@host:1234/a%2Fb?heartbeat=7", timeout=SECONDS)
    assert (one.host, one.port, one.virtual_host, one.heartbeat) == ("host", 1234, "a/b", 7)
    (one,) = servers("amqps://host", timeout=SECONDS)
    assert (one.port, one.virtual_host) == (5671, "/")
    assert one.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert one.ssl_options.context.check_hostname


def test_a_server_that_is_not_running_is_an_error(make_harness: MakeHarness) -> None:
    harness = make_harness(url=f"amqp://guest:guest@127.0.0.1:{free_port()}", options=QUICK)
    actor: Any = harness.actor(print, actor_name="collect")
    with pytest.raises(BrokerUnavailable, match=r"check that it runs.*nothing was enqueued"):
        actor.send(1)
