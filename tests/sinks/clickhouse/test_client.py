"""CLICKHOUSE_URL, and drivers that are not installed."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from formrelay.core.errors import ConfigError
from formrelay.sinks.clickhouse.client import Target, identifier, parse_targets, parse_version
from tests.sinks.clickhouse.conftest import open_clickhouse


def parse(url: str, database: str = "db") -> Target:
    (target,) = parse_all(url, database)
    return target


def parse_all(url: str, database: str = "db") -> list[Target]:
    second = timedelta(seconds=1)
    return parse_targets(url, Target(database, "u", lambda: "given", second, second))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("clickhouse://h", ("clickhouse", "h", 9000, "", "db", "u", "given", False)),
        ("clickhouses://h", ("clickhouses", "h", 9440, "", "db", "u", "given", True)),
        ("http://h", ("http", "h", 8123, "", "db", "u", "given", False)),
        ("https://h/", ("https", "h", 8443, "", "db", "u", "given", True)),
        ("HTTP://H:1", ("http", "h", 1, "", "db", "u", "given", False)),
        ("clickhouse://[::1]:2", ("clickhouse", "::1", 2, "", "db", "u", "given", False)),
        ("clickhouse://a:p%40@h/x", ("clickhouse", "h", 9000, "", "x", "a", "p@", False)),
        ("chdb:///a/b", ("chdb", "", 0, "/a/b", "db", "u", "given", False)),
        ("chdb://.f/c", ("chdb", "", 0, ".f/c", "db", "u", "given", False)),
        ("chdb://Data", ("chdb", "", 0, "Data", "db", "u", "given", False)),
        ("chdb:///a%20b", ("chdb", "", 0, "/a b", "db", "u", "given", False)),
    ],
)
def test_a_url_is_parsed(url: str, expected: tuple[object, ...]) -> None:
    target = parse(url)
    found = (target.scheme, target.host, target.port, target.path)
    access = (target.database, target.user, target.password(), target.secure)
    assert found + access == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:9000",
        "tcp://h",
        "clickhouse://",
        "clickhouse://h:x",
        "http://h:99999",
        "chdb://",
        "clickhouse://a,,b",
        "clickhouse://[::1",
    ],
)
def test_a_malformed_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="CLICKHOUSE_URL"):
        parse(url)


def test_a_url_with_several_hosts_gives_one_target_each() -> None:
    found = parse_all("clickhouses://u:p%2C,@a:1,[::1]:2,c/x")
    assert [(one.host, one.port) for one in found] == [("a", 1), ("::1", 2), ("c", 9440)]
    for one in found:
        assert (one.scheme, one.user, one.password(), one.database) == (
            *("clickhouses", "u", "p,,", "x"),
        )
    assert len(parse_all("chdb:///a,b/c")) == 1


def test_errors_and_reprs_do_not_quote_a_password() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("clickhouse://u:s3cr3t@h:99999/")
    assert "s3cr3t" not in str(caught.value)
    assert "given" not in repr(parse("clickhouse://h"))


@pytest.mark.parametrize("name", ["", "a b", "a`b", "1a", "a;b", "a.b"])
def test_a_malformed_database_name_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="CLICKHOUSE_DATABASE"):
        parse("clickhouse://h", database=name)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("clickhouse://h", "clickhouse_driver", "formrelay[clickhouse]"),
        ("http://h", "clickhouse_connect", "formrelay[clickhouse]"),
        ("chdb://x", "clickhouse_connect", "formrelay[embedded]"),
    ],
)
def test_a_missing_driver_is_an_error_that_names_the_extra(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        open_clickhouse(url, "db")
    assert f"pip install '{extra}'" in str(caught.value)


def test_a_missing_engine_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setitem(sys.modules, "chdb", None)
    for name in [one for one in sys.modules if "chdb" in one and "clickhouse_connect" in one]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"pip install 'formrelay\[embedded\]'"):
        open_clickhouse(f"chdb://{tmp_path}/x", "db").ping()


def test_identifiers_are_quoted() -> None:
    assert identifier("a`b\\") == "`a\\`b\\\\`"


@pytest.mark.parametrize(
    ("text", "version"),
    [("18.16.1", (18, 16, 1)), ("25.3.2.39 (official build)", (25, 3, 2, 39))],
)
def test_versions_are_read_as_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version
