"""Host names in ASCII, spelled as in browsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formrelay.core.hosts import InvalidHost, ascii_host

# From the tests of UTS 46 (IdnaTestV2.txt, non-transitional) and of the URL standard.
GOOD = [
    ("example.com", "example.com"),
    ("EXAMPLE.com", "example.com"),
    ("example.com.", "example.com"),
    ("my_service.internal", "my_service.internal"),
    ("r3---sn-abc.example", "r3---sn-abc.example"),
    ("127.0.0.1", "127.0.0.1"),
    ("faß.de", "xn--fa-hia.de"),
    ("FAẞ.de", "xn--fa-hia.de"),
    ("βόλος.com", "xn--nxasmm1c.com"),
    ("βόλοσ.com", "xn--nxasmq6b.com"),
    ("ශ්\u200dරී.com", "xn--10cl1a0b660p.com"),
    ("نامه\u200cای.com", "xn--mgba3gch31f060k.com"),
    ("xn--fa-hia.de", "xn--fa-hia.de"),
    ("XN--FA-HIA.de", "xn--fa-hia.de"),
    ("xn--53h.example", "xn--53h.example"),  # an emoji
    ("☕.example", "xn--53h.example"),
    ("bücher。example", "xn--bcher-kva.example"),
    ("bücher．example｡", "xn--bcher-kva.example"),
    ("ｅｘａｍｐｌｅ．ｃｏｍ", "example.com"),
    ("bu\u0308cher.example", "xn--bcher-kva.example"),
    ("soft\u00adhyphen.example", "softhyphen.example"),
    ("①②⑦.⓪.⓪.①", "127.0.0.1"),
    ("日本語.ＪＰ", "xn--wgv71a119e.jp"),
    ("a" * 63 + ".example", "a" * 63 + ".example"),
]
BAD = [
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a..",
    "\u00ad",
    "a b",
    "a/b",
    "a%62c.example",
    "a@b",
    "a:1",
    "ü@b",
    "ü／b.example",  # a full-width slash
    "ü？.example",
    "a\u200cb.example",  # a joiner without characters to join
    "a\u200db.example",
    "\u0301a.example",
    "aא.example",  # left-to-right and right-to-left letters in one label
    "\ud800.example",
    "ü\u2028.example",
    "xn--.example",
    "xn--a.example",
    "xn--ü.example",
    "xn--fass-.example",
    "xn--fa-HI\u212a.de\u0000",
    "xn--1ug.example",  # a joiner alone
    "xn--Ü.example",
    "xn--a-ecp.ru",  # decodes to a character that UTS 46 would have mapped
    "a" * 64 + ".example",
    ("a" * 60 + ".") * 5,
    "ü" * 64,
    "a" * 100_000,
    "ü" * 100_000,
]


@pytest.mark.parametrize(("host", "spelled"), GOOD)
def test_a_host_is_spelled_as_in_browsers(host: str, spelled: str) -> None:
    assert ascii_host(host) == spelled
    assert ascii_host(spelled) == spelled


@pytest.mark.parametrize("host", BAD)
def test_an_invalid_host_is_refused_without_quoting_it(host: str) -> None:
    with pytest.raises(InvalidHost) as caught:
        ascii_host(host)
    assert len(host) < 3 or host not in str(caught.value)


@given(st.text(max_size=40))
def test_the_result_is_ascii_and_is_its_own_result(host: str) -> None:
    try:
        spelled = ascii_host(host)
    except InvalidHost:
        return
    assert spelled.isascii()
    assert ascii_host(spelled) == spelled
