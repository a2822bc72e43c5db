"""REDIS_URL and STATE_URL: each option is used, or refused by name."""

from __future__ import annotations

import pytest

from formrelay.config import Settings
from formrelay.config.redis_urls import read_redis_url
from formrelay.core.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://host", "host:6379"),
        ("REDIS://HOST:1/2", "host:1"),
        ("redis://:p%40ss@[::1]:7/0", "[::1]:7"),
        ("unix:///run/my%20redis.sock?db=3", "/run/my redis.sock"),
        ("Redis+Sentinel://a,b:1,[::1]:2/forms/4", "forms (Sentinels a:26379,b:1,[::1]:2)"),
    ],
)
def test_a_url_is_parsed_and_shown_without_its_secrets(url: str, says: str) -> None:
    assert str(read_redis_url(url)) == says


def test_user_password_and_database_are_found_in_url_and_options() -> None:
    found = read_redis_url("redis://me:p%40s%2Fs%25@h/3")
    assert (found.username, found.password, found.database) == ("me", "p@s/s%", 3)
    found = read_redis_url("unix://:p%3As@/run/redis.sock?db=5")
    assert (found.username, found.password, found.database) == (None, "p:s", 5)
    found = read_redis_url("redis+sentinel://me:pw@a,b/forms/6?sentinel_password=x%26y")
    assert (found.username, found.password, found.database) == ("me", "pw", 6)
    assert found.sentinel_options == {"password": "x&y"}
    assert found.service == "forms"
    found = read_redis_url("redis://h?username=me&password=p%2525w")
    assert (found.username, found.password, found.database) == ("me", "p%25w", 0)


@pytest.mark.parametrize("text", ["none", "CERT_NONE", "None", "ssl.CERT_NONE", "0", "cert_none"])
def test_certificate_requirements_are_read_in_any_spelling(text: str) -> None:
    assert read_redis_url(f"rediss://h?ssl_cert_reqs={text}").options["ssl_cert_reqs"] == "none"


def test_options_are_converted_to_their_types() -> None:
    query = "socket_timeout=2.5&max_connections=3&health_check_interval=0&socket_keepalive=no"
    found = read_redis_url(f"redis://h/0?{query}&client_name=web&decode_responses=no&protocol=2")
    assert found.options == {
        "socket_timeout": 2.5,
        "max_connections": 3,
        "health_check_interval": 0,
        "socket_keepalive": False,
        "client_name": "web",
    }


WRONG = [
    ("redis://h?decode_responses=true", "decode_responses", "'false', or to leave it out"),
    ("redis://h?protocol=3", "protocol", "speaks RESP2"),
    ("redis://h?retry_on_timeout=1", "retry_on_timeout", "use only the options"),
    ("redis://h?Hunter2=1", "another one", "remove it"),
    ("redis://h?max_connections=0", "max_connections", "of at least 1"),
    ("redis://h?max_connections=many", "max_connections", "of at least 1"),
    ("redis://h?socket_timeout=-1", "socket_timeout", "seconds above 0"),
    ("redis://h?socket_timeout=", "socket_timeout", "a value, got none"),
    ("redis://h?health_check_interval=soon", "health_check_interval", "a whole number"),
    ("redis://h?client_name=a%20b", "client_name", "without spaces"),
    ("redis://h?db=1&db=2", "db", "once"),
    ("redis://h/1?db=2", "db=2", "one database"),
    ("redis://h/forms", "the number of a database", "like /0"),
    ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs", "start with rediss://"),
    ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs", "'required', 'optional' or 'none'"),
    ("redis://h?sentinel_password=hunter2", "sentinel_password", "start with redis+sentinel"),
    ("redis+sentinel://h:1", "name the service", "redis+sentinel://host:26379/mymaster"),
    ("redis://u:hunter2@ss?word=x@h", "percent-encode", "its user and password"),
    ("redis://user/hunter2@h:6379/0", "the number of a database", "another text"),
    ("redis://h/0#hunter2", "percent-encode", "its user and password"),
    ("unix://", "path", "got no path"),
]


@pytest.mark.parametrize(("url", "name", "advice"), WRONG)
@pytest.mark.parametrize("variable", ["REDIS_URL", "STATE_URL"])
def test_an_unusable_url_is_refused_in_one_line(
    variable: str, url: str, name: str, advice: str
) -> None:
    environ = {"REDIS_URL": "redis://h", variable: url}
    with pytest.raises(ConfigError) as caught:
        Settings.load(environ, env_file=None)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"expected {variable} to ")
    assert name in line
    assert advice in line
    assert "hunter2" not in line.lower()


def test_state_url_may_name_sentinels() -> None:
    url = "rediss+sentinel://:pw@a,b/forms?sentinel_tls=true&ssl_cert_reqs=none"
    settings = Settings.load({"REDIS_URL": "redis://h", "STATE_URL": url}, env_file=None)
    assert settings.broker.secret("state_url") == url
