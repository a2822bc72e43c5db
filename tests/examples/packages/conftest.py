"""A broker for each file of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from formrelay.brokers.base import RelayBroker
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from tests.conftest import own
from tests.examples.packages.running import Place
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def redis_of_module() -> Iterator[RedisServer]:
    with own(RedisServer) as server:
        yield server


@pytest.fixture(scope="module")
def places(
    request: pytest.FixtureRequest,
    redis_of_module: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Place]]:
    """Returns the place of a broker, by the broker's name."""
    redis = redis_of_module.url
    made: dict[str, Place] = {}

    def place(name: str) -> Place:
        if name not in made:
            broker: RelayBroker
            if name == "redis":
                variables, broker = {"REDIS_URL": redis}, RedisBroker(redis)
            else:
                url = request.getfixturevalue("rabbitmq_url_of_module")
                variables, broker = {"RABBITMQ_URL": url}, RabbitBroker(url)
            made[name] = Place(variables, redis, broker, tmp_path_factory.mktemp(name))
        return made[name]

    yield place
    for each in made.values():
        each.broker.close()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ],
)
def place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    """The place of each broker in turn."""
    return places(request.param)
