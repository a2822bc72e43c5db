"""The endpoint id of different spellings of a URL."""

from __future__ import annotations

import hashlib

import pytest

from formrelay.actors.webhooks import actor as webhooks
from formrelay.core.errors import InvalidJob
from tests.actors.conftest import Site

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def id_of(site: Site, url: str) -> str:
    return str(webhooks.endpoint_of(webhooks.Webhook(url=url, body=1, secret=SECRET)))


def test_all_spellings_of_a_host_have_one_endpoint_id(site: Site) -> None:
    spelled = ["faß.de", "FAẞ.de", "faß．de", "xn--fa-hia.de", "XN--FA-HIA.de."]
    assert len({id_of(site, f"https://{one}/hook?a={one}") for one in spelled}) == 1
    assert id_of(site, "https://fass.de/hook") != id_of(site, "https://faß.de/hook")


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:443/a/%20b", "https://1.1.1.1/ä b"]
)
def test_a_url_with_a_canonical_host_keeps_its_id(site: Site, url: str) -> None:
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    assert id_of(site, url) == f"url_{digest}"


@pytest.mark.parametrize("host", ["a\u200db.de", "xn--a.de", "ü..de", "ü" * 64 + ".de"])
def test_an_invalid_host_is_refused_by_send(site: Site, host: str) -> None:
    with pytest.raises(InvalidJob, match="url: expected"):
        site.actors.deliver_webhook.send({"url": f"https://{host}/", "body": 1, "secret": SECRET})
