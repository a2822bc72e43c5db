"""Which addresses webhooks may reach."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from formrelay.sinks.http.addresses import parse_address, why_blocked

BLOCKED = [
    ("0.0.0.0", "this network"),
    ("0.1.2.3", "this network"),
    ("10.0.0.1", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.0.1", "loopback"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "protocol assignments"),
    ("192.0.2.1", "documentation"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmark"),
    ("198.19.255.255", "benchmark"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "IPv4-compatible"),
    ("::ffff:10.0.0.1", "private"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:0:10.0.0.1", "IPv4-translated"),
    ("64:ff9b::a00:1", "NAT64"),
    ("64:ff9b:1::1", "NAT64"),
    ("100::1", "discard"),
    ("2001::1", "Teredo"),
    ("2001:2::1", "protocol assignments"),
    ("2001:db8::1", "documentation"),
    ("2002:a00:1::", "6to4"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("5f00::1", "reserved"),
    ("fc00::1", "unique local"),
    ("fdff::1", "unique local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    # Metadata and internal services of clouds.
    ("168.63.129.16", "cloud service"),
    ("::ffff:168.63.129.16", "cloud service"),
    ("161.26.0.10", "cloud service"),
    ("166.11.255.255", "cloud service"),
    ("199.36.153.4", "cloud service"),
    ("199.36.153.11", "cloud service"),
    ("2600:2d00:2:1000::1", "cloud service"),
    ("2600:2d00:2:2000::1", "cloud service"),
    ("169.254.170.2", "link-local"),
    ("169.254.0.23", "link-local"),
    ("100.100.100.200", "carrier-grade NAT"),
    ("192.0.0.192", "protocol assignments"),
    ("fd00:ec2::254", "unique local"),
    ("fd20:ce::254", "unique local"),
    ("fd00:c1::a9fe:a9fe", "unique local"),
    ("fd00:42::42", "unique local"),
    ("fe80::a9fe:a9fe", "link-local"),
    ("64:ff9b::a83f:8110", "NAT64"),
    ("2002:a83f:8110::", "6to4"),
]
OPEN = [
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("172.15.255.255", "172.32.0.0", "192.167.255.255", "198.17.255.255", "198.20.0.0"),
    *("168.63.129.15", "168.63.129.17", "166.7.255.255", "166.12.0.0", "199.36.153.12"),
    *("223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"),
]


@pytest.mark.parametrize(("text", "why"), BLOCKED)
def test_a_special_address_is_blocked(text: str, why: str) -> None:
    assert why_blocked(parse_address(text)) == why


@pytest.mark.parametrize("text", OPEN)
def test_a_public_address_is_allowed(text: str) -> None:
    assert why_blocked(parse_address(text)) is None


@pytest.mark.parametrize(
    ("text", "allowed", "open_"),
    [
        ("10.1.2.3", "10.1.0.0/16", True),
        ("::ffff:10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("fd00::5", "fd00::/64", True),
        ("fd00:1::5", "fd00::/64", False),
        ("127.0.0.1", "fd00::/64", False),
    ],
)
def test_an_exception_allows_its_own_network_only(text: str, allowed: str, open_: bool) -> None:
    why = why_blocked(parse_address(text), allowed=[ip_network(allowed)])
    assert (why is None) is open_
