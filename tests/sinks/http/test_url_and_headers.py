"""The checks of the URL and the custom headers of a webhook."""

from __future__ import annotations

import pytest

from formrelay.core.errors import InvalidJob
from formrelay.sinks.http import HttpNotAllowed, check_headers, check_url

GOOD_URLS = [
    ("https://example.com", "https://example.com/", "example.com"),
    ("HTTPS://Example.com:8443/a?b=c#d", "https://example.com:8443/a?b=c", "example.com"),
    ("https://example.com/ä b", "https://example.com/%C3%A4%20b", "example.com"),
    ("https://example.com/%C3%A4?q=%20", "https://example.com/%C3%A4?q=%20", "example.com"),
    ("https://bücher.example/", "https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ("https://[2606:4700::1]:444/x", "https://[2606:4700::1]:444/x", "2606:4700::1"),
    ("https://example.com./x", "https://example.com/x", "example.com"),
    ("https://faß.de/ß", "https://xn--fa-hia.de/%C3%9F", "xn--fa-hia.de"),
    ("https://FAẞ．de:444", "https://xn--fa-hia.de:444/", "xn--fa-hia.de"),
    ("https://xn--fa-hia.de", "https://xn--fa-hia.de/", "xn--fa-hia.de"),
    ("https://①.①.①.①/", "https://1.1.1.1/", "1.1.1.1"),
    ("https://0x01010101/", "https://1.1.1.1/", "1.1.1.1"),
    ("https://[2606:4700:0:0::1]/", "https://[2606:4700::1]/", "2606:4700::1"),
]
BAD_URLS = [
    "",
    "example.com",
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "https://",
    "https:///path",
    "https://./",
    "https://user@example.com/",
    "https://user:pass@example.com/",
    "https://@example.com/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:port/",
    "https://exa mple.com/",
    "https://example.com\\@evil.test/",
    "https://example.com/\r\nX: y",
    "https://example.com/\x00",
    " https://example.com/",
    "https://exa%6dple.com/",
    "https://fa%C3%9F.de/",
    "https://a..example.com/",
    "https://xn--a.example.com/",
    "https://a\u200db.example.com/",
    "https://1.2.3.4.5/",
    "https://256.1.1.1/",
    "https://1.2.3.08/",
    "https://example.0x/",
    "https://[1.2.3.4]/",
    "https://[::1/",
    "https://[fe80::1%25eth0]/",
    "https://example.com/" + "a" * 9000,
    "https://example.com/\ud800",
    "https://example.com/?a=\udfff",
    "https://\udc80.example.com/",
]


@pytest.mark.parametrize(("url", "sent", "host"), GOOD_URLS)
def test_a_valid_url_is_converted_to_its_canonical_spelling(url: str, sent: str, host: str) -> None:
    target = check_url(url)
    assert (target.url, target.host) == (sent, host)


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_invalid_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        check_url(url)
    assert not url or url not in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "")


def test_the_error_about_http_names_no_variable_of_webhooks() -> None:
    with pytest.raises(HttpNotAllowed, match=r"^expected an https url, got http$"):
        check_url("http://example.com/")


def test_http_is_accepted_if_allowed() -> None:
    assert check_url("http://example.com/", allow_http=True).scheme == "http"


@pytest.mark.parametrize(
    "custom",
    [
        {"": "x"},
        {"a b": "x"},
        {"a:": "x"},
        {"ä": "x"},
        {"x\r\n": "x"},
        {"x-a": "b\r\nX-Evil: 1"},
        {"x-a": "b\nc"},
        {"x-a": "b\x00c"},
        {"x-a": "b\x7fc"},
        {"x-a": "€"},
        {"Host": "evil.test"},
        {"Content-Length": "3"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
        {"Proxy-Authorization": "x"},
        {"webhook-id": "x"},
        {"Webhook-Signature": "x"},
        {"x-a": "1", "X-A": "2"},
        {"x-a": "s" * 17_000},
        {f"x-{n}": "1" for n in range(65)},
    ],
)
def test_an_invalid_or_reserved_header_is_refused(custom: dict[str, str]) -> None:
    with pytest.raises(InvalidJob) as caught:
        check_headers(custom)
    assert "evil" not in str(caught.value).lower()


def test_valid_headers_are_returned_in_lower_case() -> None:
    assert check_headers({"X-Key": " a\tb ", "Authorization": "Bearer t", "x-e": ""}) == {
        "x-key": "a\tb",
        "authorization": "Bearer t",
        "x-e": "",
    }
