"""The client certificates of the settings reach the API and the receivers of webhooks."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.actors.conftest import Site
from tests.actors.test_sending import KEY, SUBMISSION
from tests.sinks.wire import answer, serving
from tests.support.certificates import Authority

SAVED = answer(201, b'{"id": "sub-1", "status": "draft", "webhooks": []}')


def test_the_configured_certificates_are_used(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    monkeypatch.setattr(
        "formrelay.sinks.http.curl.system_ca_file", lambda: str(authority.certificate)
    )
    tls = authority.server_side("server")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(authority.certificate)
    cert, key = authority.issue("client")
    files = {
        "client_cert_file": cert,
        "client_key_file": key,
        "client_key_password": SecretStr("x"),
    }
    with serving(SAVED, tls=tls) as api, serving(SAVED, tls=tls) as hook:
        site.use(webhooks=files, api=files | {"url": f"https://localhost:{api.port}"})
        site.actors.save_submission.send(SUBMISSION)
        site.actors.deliver_webhook.send(
            {"url": f"https://localhost:{hook.port}/", "body": {}, "secret": KEY}
        )
        site.work_off("submissions", "webhooks")
        assert (len(api.requests), len(hook.requests)) == (1, 1)
    assert site.dead("submissions") == site.dead("webhooks") == []
