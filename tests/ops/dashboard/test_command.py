"""``formrelay dashboard``: where it listens, and with which login."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest
import requests

from formrelay.ops.cli.dashboard import make_server
from formrelay.ops.dashboard.access import TokenAccess
from formrelay.state import make_task_store
from tests.ops.dashboard.conftest import TOKENS, Site, serving
from tests.ops.dashboard.helpers import bury, fields
from tests.support.command import clean_environment, run, start_python
from tests.support.waiting import wait_until

TOKEN = "a-long-enough-token"


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "example.com:80", "192.0.2.1:8765"])
def test_other_machines_are_not_served_without_a_token(
    tmp_path: Path, redis_url: str, bind: str
) -> None:
    done = run("dashboard", "--bind", bind, cwd=tmp_path, env={"REDIS_URL": redis_url})
    assert done.returncode == 2
    assert "expected DASHBOARD_TOKEN for a dashboard on" in done.stderr


@pytest.mark.parametrize("bind", ["8765", "localhost", "127.0.0.1:x", "127.0.0.1:99999", ":80"])
def test_a_wrong_address_is_wrong_use(tmp_path: Path, redis_url: str, bind: str) -> None:
    done = run("dashboard", "--bind", bind, cwd=tmp_path, env={"REDIS_URL": redis_url})
    assert done.returncode == 2
    assert "expected an address like 127.0.0.1:8765" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DASHBOARD_TOKEN": "short"}, "DASHBOARD_TOKEN to have at least 16 characters"),
        (
            {"DASHBOARD_TOKEN": TOKEN, "DASHBOARD_READ_ONLY_TOKEN": TOKEN},
            "DASHBOARD_READ_ONLY_TOKEN to differ from DASHBOARD_TOKEN",
        ),
    ],
)
def test_weak_tokens_are_refused_and_not_shown(
    tmp_path: Path, redis_url: str, variables: dict[str, str], expected: str
) -> None:
    done = run("dashboard", cwd=tmp_path, env={"REDIS_URL": redis_url, **variables})
    assert done.returncode == 2
    assert expected in done.stderr
    assert TOKEN not in done.stderr


def test_the_server_passes_the_headers_of_a_proxy_on(site: Site) -> None:
    headers = {"X-Forwarded-Prefix": "/ops", "X-Forwarded-For": "203.0.113.7"}
    for trust_proxy, expected in ((False, "/login?next=/"), (True, "/ops/login?next=/")):
        app = site.app(TokenAccess(lambda: TOKENS), trust_proxy=trust_proxy)
        with serving(make_server(app, "127.0.0.1", 0, 2)) as url:
            answer = requests.get(url, headers=headers, allow_redirects=False, timeout=10)
            assert answer.headers["Location"] == expected
    with serving(make_server(site.client.application, "127.0.0.1", 0, 2)) as url:
        assert requests.get(url, timeout=10).status_code == 200
        assert requests.get(url, headers=headers, timeout=10).status_code == 403


def test_connections_that_send_nothing_keep_nobody_out(site: Site) -> None:
    with (
        serving(make_server(site.client.application, "127.0.0.1", 0, 2)) as url,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(120):
            slow = stack.enter_context(socket.create_connection(address, timeout=10))
            slow.sendall(b"GET / HTTP/1.1\r\n")
        assert requests.get(url, timeout=20).status_code == 200


@pytest.mark.slow
def test_it_serves_the_pages_names_no_server_and_stops_its_tasks(
    tmp_path: Path, redis_url: str, site: Site
) -> None:
    for number in range(100):
        bury(site, f"a{number}")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    log = tmp_path / "log"
    process = start_python(
        *("-m", "formrelay", "dashboard", "--bind", "127.0.0.1:0"),
        cwd=tmp_path,
        env=clean_environment(REDIS_URL=redis_url, DASHBOARD_TOKEN_FILE=str(token)),
        log=log,
    )
    try:
        (url,) = wait_until(lambda: re.findall(r"http://\S+", log.read_text()))
        with requests.Session() as session:
            answer = session.get(url, timeout=10)
            assert "Log in" in answer.text
            origin = {"Origin": url.rstrip("/")}
            form = {"token": TOKEN, "next": "/"}
            page = session.post(f"{url}login/token", data=form, headers=origin, timeout=10)
            assert "<h1>Overview</h1>" in page.text
            for found in (answer, page, session.get(f"{url}nothing", timeout=10)):
                assert "Server" not in found.headers
                assert "Via" not in found.headers
                assert not re.search("waitress|werkzeug|python", found.text, re.IGNORECASE)
            form = {"action": "replay", "window": "all"}
            asked = session.post(f"{url}dead/confirm", data=form, headers=origin, timeout=10)
            form = {"action": "replay", "rate": "1", **fields(asked.text)}
            task = session.post(f"{url}dead/start", data=form, headers=origin, timeout=10).url
            wait_until(lambda: site.broker.inspector.counts("webhooks").waiting)
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
    record = make_task_store(site.broker.state).find(task.partition("id=")[2])
    assert record is not None
    assert (record.state, record.text) == ("stopped", "the end of the dashboard's process")
    assert 0 < record.done < 100
