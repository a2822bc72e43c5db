"""The health view and the dashboard, on a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.djangoapp.host import Host, HostSite
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

HEALTH, DASHBOARD = "api/v1/workers/health", "formrelay/"


def numbers(page: str) -> set[int]:
    """Numbers of the dead letters on a page."""
    return {int(number) for number in re.findall(r"alert\((\d+)\)", page)}


@pytest.fixture
def full(host: Host) -> Host:
    """A site whose queue `dying` has 62 dead letters."""
    assert host.call("dead_letters.make", 62) == 62
    host.settings["FIRST_APPS"] = ["dying"]
    return host


@pytest.fixture
def site(host: Host) -> Iterator[HostSite]:
    with HostSite(host) as site:
        yield site


@pytest.fixture
def full_site(full: Host) -> Iterator[HostSite]:
    with HostSite(full) as site:
        yield site


def test_health_shows_one_word_to_everybody_and_details_to_staff(
    site: HostSite, host: Host
) -> None:
    nobody = site.get(HEALTH)
    assert (nobody.status_code, nobody.json()) == (200, {"status": "ok"})
    assert "no-store" in nobody.headers["Cache-Control"]
    other = site.session("other").get(f"{site.url}/{HEALTH}", timeout=30)
    assert other.json() == {"status": "ok"}
    host.call("project.write_note")
    answer = site.session("staff").get(f"{site.url}/{HEALTH}", timeout=30)
    told = answer.json()
    kind = "redis" if "REDIS_URL" in host.settings["FORMRELAY"] else "rabbitmq"
    assert (answer.status_code, told["status"], told["broker"]["kind"]) == (
        *(200, "degraded", kind),
    )
    why = {"kind": "no_worker", "queue": "notes", "why": "1 job and no live worker"}
    assert told["problems"] == [why]
    assert isinstance(told["broker"]["weaknesses"], list)
    queues = {one["queue"]: one for one in told["queues"]}
    assert {"events", "submissions", "partials", "webhooks", "notes"} <= queues.keys()
    assert queues["notes"]["waiting"] == 1
    unknown = kind == "rabbitmq"  # RabbitMQ without its management API cannot list workers
    assert (queues["notes"]["scheduled"] is None) is unknown
    assert told["workers"] == (None if unknown else [])


def test_health_refuses_other_methods(site: HostSite) -> None:
    assert requests.post(f"{site.url}/{HEALTH}", timeout=30).status_code in (403, 405)
    assert requests.head(f"{site.url}/{HEALTH}", timeout=30).status_code == 200


def check_down(site: HostSite, staff: Any) -> None:
    begun = time.monotonic()
    nobody = site.get(HEALTH)
    assert time.monotonic() - begun < 15
    assert (nobody.status_code, nobody.json()) == (503, {"status": "down"})
    told = staff.get(f"{site.url}/{HEALTH}", timeout=30)
    assert (told.status_code, told.json()["workers"]) == (503, None)
    assert "expected" in told.json()["error"]
    page = staff.get(f"{site.url}/{DASHBOARD}", timeout=30)
    assert page.status_code == 503
    assert "The broker or the shared store is unavailable" in page.text
    for text in (told.text, page.text):
        assert "hush" not in text
        assert "Traceback" not in text


@pytest.mark.slow
def test_health_reports_a_hanging_or_stopped_broker_in_time(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.acl_setuser("app", enabled=True, passwords=["+hush"], keys=["*"], commands=["+@all"])
    url = redis_server.url.replace("redis://", "redis://app:hush@")
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": url}}).migrated()
    with HostSite(host) as site:
        staff = site.session("staff")
        assert site.get(HEALTH).status_code == 200
        redis_server.pause()
        check_down(site, staff)
        redis_server.resume()
        wait_until(lambda: site.get(HEALTH).status_code == 200)
        redis_server.stop()
        check_down(site, staff)


def test_only_staff_can_see_the_dashboard(site: HostSite, host: Host) -> None:
    for answer in (
        site.get(DASHBOARD),
        site.session("other").get(f"{site.url}/{DASHBOARD}", timeout=30, allow_redirects=False),
    ):
        assert answer.status_code == 302
        assert answer.headers["Location"] == "/admin/login/?next=/formrelay/"
    staff = site.session("staff").get(f"{site.url}/{DASHBOARD}", timeout=30)
    assert staff.status_code == 200
    assert "submissions" in staff.text


def test_without_the_admin_visitors_are_redirected_to_login_url(tmp_path: Path) -> None:
    host = Host(tmp_path, settings={"FORMRELAY": {"REDIS_URL": "redis://127.0.0.1:1/0"}}).migrated()
    host.settings["LOGIN_URL"] = "/enter/"
    host.module = "bare"
    assert host.call("project.ask_dashboard") == [302, "/enter/?next=/formrelay/"]


def test_the_dashboard_shows_queues_and_dead_letters_and_no_payload(full_site: HostSite) -> None:
    staff = full_site.session("staff")
    answer = staff.get(f"{full_site.url}/{DASHBOARD}", timeout=30)
    for queue in ("submissions", "notes", "dying"):
        assert f'<a href="/formrelay/queue?name={queue}">{queue}</a>' in answer.text
    assert ">62</span>" in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    newest = staff.get(f"{full_site.url}/{DASHBOARD}queue?name=dying&state=dead", timeout=30).text
    assert "newest first" in " ".join(newest.split())
    assert "&lt;script&gt;alert(61)&lt;/script&gt; &amp; &#34;more&#34;" in newest
    assert len(numbers(newest)) == 50
    assert {57, 58, 59, 60, 61} <= numbers(newest)
    job = re.findall(r'href="(/formrelay/job[^"]+)"', newest)[0].replace("&amp;", "&")
    letter = staff.get(f"{full_site.url}{job}", timeout=30).text
    assert "formrelay.core.errors.SinkPermanent" in letter
    assert "attempt 1" in letter
    for text in (answer.text, newest, letter):
        assert "PAYLOAD" not in text
        assert "<script>" not in text


def test_the_view_of_a_queue_has_pages(full_site: HostSite) -> None:
    staff = full_site.session("staff")

    def page(path: str) -> str:
        return staff.get(f"{full_site.url}{path}", timeout=30).text

    first = page("/formrelay/queue?name=dying&state=dead&order=oldest")
    assert len(numbers(first)) == 50
    (link,) = re.findall(r'href="([^"]+)">Next page', first)
    second = page(link.replace("&amp;", "&"))
    assert len(numbers(second)) == 12
    assert numbers(first) | numbers(second) == set(range(62))
    assert "Next page" not in second
    assert ">First page</a>" in second


def test_superusers_act_and_other_staff_only_look(full_site: HostSite) -> None:
    url = f"{full_site.url}/{DASHBOARD}"
    found = full_site.session("staff").get(f"{url}queue?name=dying&state=dead", timeout=30).text
    id = re.findall(r"queue=dying&amp;id=([^\"]+)", found)[0]
    fields = {"queue": "dying", "id": id, "do": "delete"}
    ours = {"Origin": full_site.url}

    def act(user: str, headers: dict[str, str]) -> int:
        session = full_site.session(user)
        options: dict[str, Any] = {"data": fields, "headers": headers, "allow_redirects": False}
        return int(session.post(f"{url}job/act", timeout=30, **options).status_code)

    assert act("other", ours) == 302  # to the login
    assert act("staff", ours) == 403
    assert act("boss", {"Origin": "https://evil.example"}) == 403
    assert act("boss", {}) == 403
    boss = full_site.session("boss")
    revealed = boss.post(f"{url}job/reveal", data=fields, headers=ours, timeout=30)
    assert "PAYLOAD" in revealed.text
    assert act("boss", ours) == 303
    page = boss.get(f"{url}job?queue=dying&id={id}", timeout=30)
    assert page.status_code == 404


def test_a_permission_makes_staff_operators_and_actions_work_under_asgi(full: Host) -> None:
    found = full.call("dashboards.visit", [None, "auth.view_user", 7])
    assert found["roles"] == [
        ["read-only", "operator"],
        ["operator", "operator"],
        ["wrong setting", "operator"],
    ]
    assert found["deleted"] == [303, "Deleted", 61]


def test_an_unknown_queue_and_an_invalid_cursor_are_not_found(site: HostSite) -> None:
    staff = site.session("staff")
    for query in ("name=nope", "name=notes&state=dead&cursor=nonsense", "name=%00%ff"):
        answer = staff.get(f"{site.url}/{DASHBOARD}queue?{query}", timeout=30)
        assert answer.status_code == 404, query
