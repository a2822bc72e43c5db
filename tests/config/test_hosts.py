"""Hosts in URLs that are not ASCII; the drivers would turn them into other names."""

from __future__ import annotations

from pathlib import Path

import pytest

from formrelay.config import Settings
from formrelay.core.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "field", "name", "given", "read"),
    [
        ("api", "url", "API_URL", "https://faß.de/x", "https://xn--fa-hia.de/x"),
        (
            *("broker", "redis_url", "REDIS_URL"),
            *("redis://ü:ß@faß.de:6379/0", "redis://ü:ß@xn--fa-hia.de:6379/0"),
        ),
        (
            *("clickhouse", "url", "CLICKHOUSE_URL"),
            *("clickhouse://u:p@faß.de,βόλος.com:9000/d", None),
        ),
        ("webhooks", "proxy", "WEBHOOK_PROXY", "http://FAẞ.de:3128", "http://xn--fa-hia.de:3128"),
    ],
)
def test_a_host_that_is_not_ascii_is_converted(
    section: str, field: str, name: str, given: str, read: str | None
) -> None:
    settings = Settings.load({"REDIS_URL": "redis://h"} | {name: given}, env_file=None)
    found = getattr(getattr(settings, section), field)
    plain = found if isinstance(found, str) else found.get_secret_value()
    assert plain == (read or "clickhouse://u:p@xn--fa-hia.de,xn--nxasmm1c.com:9000/d")


def test_a_host_in_a_secret_file_is_converted(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://faß.de:6379/0\n")
    settings = Settings.load({"REDIS_URL_FILE": str(file)}, env_file=None)
    assert settings.broker.secret("redis_url") == "redis://xn--fa-hia.de:6379/0"


@pytest.mark.parametrize("host", ["a\u200db.de", "ü..de", "ü" * 64])
def test_an_invalid_host_name_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="API_URL to be a URL with a host name"):
        Settings.load({"REDIS_URL": "redis://h", "API_URL": f"https://{host}"}, env_file=None)
