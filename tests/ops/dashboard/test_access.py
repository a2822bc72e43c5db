"""Who gets in: tokens, sessions, roles, other sites, other hosts, prefixes."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from werkzeug.test import Client

from formrelay.ops.dashboard import make_app
from formrelay.ops.dashboard.access import COOKIE, LoopbackAccess, Role, TokenAccess, User
from formrelay.ops.dashboard.failed_logins import FailedLogins
from formrelay.ops.dashboard.sessions import MAX_AGE, Session, read_session, sign_session
from formrelay.ops.dashboard.view import FLASH_COOKIE
from tests.ops.dashboard.conftest import HOSTILE, ORIGIN, TOKENS, Site
from tests.support.clock import ManualClock


def test_a_visitor_is_sent_to_the_login_and_back_to_the_page(site: Site) -> None:
    client = site.with_tokens()
    answer = client.get("/?a=b")
    assert answer.status_code == 303
    assert answer.location == "/login?next=/?a%3Db"
    form = client.get(answer.location)
    assert 'name="next" value="/?a=b"' in form.text
    data = {"token": TOKENS[Role.OPERATOR], "next": "/?a=b"}
    done = client.post("/login/token", data=data, headers=ORIGIN)
    assert (done.status_code, done.location) == (303, "/?a=b")
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:x", "x"]
)
def test_the_login_leads_to_no_other_site(site: Site, target: str) -> None:
    data = {"token": TOKENS[Role.OPERATOR], "next": target}
    assert site.with_tokens().post("/login/token", data=data, headers=ORIGIN).location == "/"


def test_the_cookie_is_hidden_from_scripts_and_other_sites(site: Site) -> None:
    client = site.with_tokens()
    data = {"token": TOKENS[Role.READ_ONLY], "name": "Ann"}
    plain = client.post("/login/token", data=data, headers=ORIGIN).headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(plain.split("; "))
    assert "Secure" not in plain
    tls = client.post(
        "/login/token", data=data, base_url="https://h/", headers={"Origin": "https://h"}
    )
    assert "Secure" in tls.headers["Set-Cookie"]
    assert TOKENS[Role.READ_ONLY] not in plain


def test_a_wrong_token_is_refused_and_the_sixth_has_to_wait(site: Site) -> None:
    client = site.with_tokens()
    where = {"REMOTE_ADDR": "203.0.113.7"}
    for _ in range(5):
        wrong = client.post(
            "/login/token", data={"token": HOSTILE}, headers=ORIGIN, environ_base=where
        )
        assert (wrong.status_code, "Set-Cookie" in wrong.headers) == (403, False)
        assert "The token is wrong." in wrong.text
        assert "alert(1)" not in wrong.text
    right = {"token": TOKENS[Role.OPERATOR]}
    late = client.post("/login/token", data=right, headers=ORIGIN, environ_base=where)
    assert (late.status_code, "Too many failed logins" in late.text) == (429, True)
    assert 0 < int(late.headers["Retry-After"]) <= 60
    assert client.post("/login/token", data=right, headers=ORIGIN).status_code == 303


def test_failed_logins_are_forgotten_after_a_minute_and_addresses_are_limited() -> None:
    clock = ManualClock()
    failed = FailedLogins(clock)
    for _ in range(5):
        failed.add("a")
    assert failed.seconds_to_wait("a") == 60
    clock.now += 61
    assert failed.seconds_to_wait("a") == 0
    for number in range(2_000):
        failed.add(str(number))
    assert len(failed._times) == 1_000


def test_a_session_survives_a_restart_and_ends_with_its_token_or_its_time() -> None:
    session = Session(Role.OPERATOR, "Ann", 1_000_000.0)
    cookie = sign_session(session, TOKENS[Role.OPERATOR])
    assert read_session(cookie, TOKENS, now=1_000_000 + MAX_AGE - 1) == session
    assert read_session(cookie, TOKENS, now=1_000_000 + MAX_AGE + 1) is None
    assert read_session(cookie, {Role.OPERATOR: "another-token-123456"}, now=1_000_000) is None
    assert read_session(cookie, {}, now=1_000_000) is None
    forged = sign_session(session, TOKENS[Role.READ_ONLY])
    assert read_session(forged, TOKENS, now=1_000_000) is None
    for broken in ("", ".", "a.b", cookie[:-1], cookie.replace(".", ""), HOSTILE, "W10=.x", "é.é"):
        assert read_session(broken, TOKENS, now=1_000_000) is None


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "https://localhost"}, True),  # a proxy ends TLS
        ({"Origin": "http://localhost:81"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
    ],
)
def test_a_form_of_another_site_is_refused(
    site: Site, headers: dict[str, str], is_ours: bool
) -> None:
    answer = site.with_tokens().post("/login/token", data={"token": "x"}, headers=headers)
    assert ("The token is wrong." in answer.text) is is_ours
    assert ("not sent by a page of this dashboard" in answer.text) is not is_ours
    assert answer.status_code == 403


def test_logging_out_ends_the_session(site: Site) -> None:
    client = site.with_tokens(Role.OPERATOR)
    assert "Log out" in client.get("/").text
    assert client.post("/logout", headers=ORIGIN).location == "/login"
    assert "Logged out." in client.get("/login").text
    assert "Logged out." not in client.get("/login").text  # shown once
    assert client.get("/").status_code == 303


def test_without_a_login_only_loopback_names_are_answered(site: Site) -> None:
    for host in ("localhost", "127.0.0.1:8765", "[::1]:8765"):
        assert site.client.get("/", base_url=f"http://{host}/").status_code == 200, host
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example"):
        assert site.client.get("/", base_url=f"http://{host}/").status_code == 403, host
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
        answer = site.client.get("/", base_url="http://127.0.0.1/", headers={header: "203.0.113.7"})
        assert answer.status_code == 403, header
        assert "set DASHBOARD_TOKEN" in answer.text
    assert "Log out" not in site.page("/")


def test_the_headers_forbid_everything_that_the_pages_do_not_need(site: Site) -> None:
    for path in ("/", "/nothing", "/static/nothing"):
        headers = site.client.get(path).headers
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


def test_static_files_are_cached_for_ever_under_a_hash(site: Site) -> None:
    urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', site.page("/"))
    assert len(urls) == 4
    for url in urls:
        assert re.fullmatch(r"/static/\w+\.[0-9a-f]{12}\.(css|js|svg)", url)
        answer = site.client.get(url)
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.data


def test_links_forms_and_cookies_have_the_prefix(site: Site) -> None:
    client = site.with_tokens(prefix="/ops")
    for path in ("/", "/ops/"):  # a proxy may take the prefix off, or not
        assert client.get(path).location == "/ops/login?next=/"
    data = {"token": TOKENS[Role.OPERATOR], "next": "/nothing"}
    done = client.post("/login/token", data=data, headers=ORIGIN)
    assert done.location == "/ops/nothing"
    assert "Path=/ops/" in done.headers["Set-Cookie"]
    page = client.get("/ops/").text
    assert all(
        url.startswith("/ops/") for url in re.findall(r'(?:src|href|action)="(/[^"]*)"', page)
    )


def test_a_forwarded_prefix_counts_only_if_the_proxy_is_trusted(site: Site) -> None:
    headers = {"X-Forwarded-Prefix": "/ops", "X-Forwarded-Host": "ops.example"}
    assert site.with_tokens().get("/", headers=headers).location == "/login?next=/"
    trusting = site.with_tokens(trust_proxy=True)
    assert trusting.get("/", headers=headers).location == "/ops/login?next=/"
    form = {"token": TOKENS[Role.OPERATOR]}
    origin = {"Origin": "https://ops.example", "X-Forwarded-Proto": "https"}
    done = trusting.post("/login/token", data=form, headers=headers | origin)
    assert "Secure" in done.headers["Set-Cookie"]


def test_an_unexpected_error_is_logged_and_its_text_is_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Any:
        raise RuntimeError("secret value")

    client = Client(make_app(fail, access=LoopbackAccess()))
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret value" not in answer.text
    assert "Traceback" not in answer.text
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError


def test_the_name_of_a_user_is_cut_and_escaped(site: Site) -> None:
    client = site.with_tokens()
    data = {"token": TOKENS[Role.OPERATOR], "name": HOSTILE * 3}
    client.post("/login/token", data=data, headers=ORIGIN)
    text = client.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    assert len(cookie.value) < 600


def test_a_user_of_another_program_is_read_from_the_environment(site: Site) -> None:
    from formrelay.ops.dashboard.access import HostAccess

    client = Client(site.app(HostAccess()))
    assert client.get("/").status_code == 403
    assert client.get("/login").status_code == 404
    user = {HostAccess.KEY: User("ann", Role.READ_ONLY)}
    assert "read-only" in client.get("/", environ_overrides=user).text
    assert TokenAccess(lambda: TOKENS).log_in("", "") is None


# -- hostile requests ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [COOKIE, FLASH_COOKIE])
@pytest.mark.parametrize(
    "value", ["[" * 2_500, f'["operator", "x", 1{"0" * 400}]', "null", '{"a": 1}', "\udcff"]
)
def test_a_cookie_that_anyone_can_make_is_ignored(site: Site, name: str, value: str) -> None:
    body = urlsafe_b64encode(value.encode(errors="surrogateescape")).decode()
    client = site.with_tokens()
    client.set_cookie(name, body if name == FLASH_COOKIE else f"{body}.00")
    assert client.get("/login").status_code == 200
    assert client.get("/").status_code == 303


def test_a_form_without_a_login_is_short(site: Site) -> None:
    fields = {f"field{number}": "" for number in range(2_000)}
    answer = site.with_tokens().post("/login/token", data=fields, headers=ORIGIN)
    assert answer.status_code == 413


def test_a_refused_method_names_those_allowed(site: Site) -> None:
    answer = site.client.put("/dead")
    assert (answer.status_code, set(answer.allow or ())) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize("prefix", ["//evil.example", "/\\evil.example", "///evil.example/"])
def test_a_forwarded_prefix_leads_to_no_other_site(site: Site, prefix: str) -> None:
    client = site.with_tokens(trust_proxy=True)
    answer = client.get("/", headers={"X-Forwarded-Prefix": prefix})
    assert answer.location.startswith("/evil.example")


@pytest.mark.parametrize(
    "path",
    [
        "/find?id={}",
        "/queue?name={}",
        "/job?queue={}&id=x",
        "/dead?queue={}",
        "/dead?id={}",
        "/dead/letters?queue={}",
    ],
)
def test_an_id_that_no_message_can_have_is_refused(site: Site, path: str) -> None:
    site.page(path.format(r"\ud800"), status=400)


def test_a_selection_that_no_page_wrote_is_refused(site: Site) -> None:
    for letter in (r'["\\ud800", "x"]', "[" * 40_000, '["a"]', "[1, 2]", "5"):
        answer = site.post("/dead/confirm", action="replay", letter=letter)
        assert answer.status_code == 400, letter
    assert site.post("/webhooks/resend", id=r"\ud800").status_code == 400
