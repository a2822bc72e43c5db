"""The addresses that webhooks must not reach.

These are the ranges of IANA's special-purpose registries (RFC 6890 and its updates) and the public
addresses of internal services of clouds.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_BLOCKED_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "protocol assignments",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmark",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",  # includes 255.255.255.255, the broadcast address
}
_BLOCKED_V6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::/96": "IPv4-compatible",
    "::ffff:0:0:0/96": "IPv4-translated",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "100::/64": "discard",
    "2001::/32": "Teredo",
    "2001::/23": "protocol assignments",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "fc00::/7": "unique local",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
# Public addresses of internal services of clouds. Most metadata services need no entry, because the
# ranges above contain them:
# - link-local: 169.254.169.254 (AWS, Azure, Google, Oracle, IBM, DigitalOcean), fe80::a9fe:a9fe
#   (OpenStack, Akamai)
# - carrier-grade NAT: 100.100.100.200 (Alibaba)
# - protocol assignments: 192.0.0.192 (Oracle Classic)
# - unique local: fd00:ec2::254 (AWS), fd20:ce::254 (Google), fd00:c1::a9fe:a9fe (Oracle),
#   fd00:42::42 (Scaleway)
_BLOCKED_CLOUD = {
    # Azure, its agent and DNS: learn.microsoft.com/azure/virtual-network,
    # what-is-ip-address-168-63-129-16
    "168.63.129.16/32": "cloud service",
    # IBM: cloud.ibm.com/docs/vpc, reserved ranges (IBM services, Cloud Service Endpoints)
    "161.26.0.0/16": "cloud service",
    "166.8.0.0/14": "cloud service",
    # Google: cloud.google.com/vpc/docs/configure-private-google-access (restricted, private)
    "199.36.153.4/30": "cloud service",
    "199.36.153.8/30": "cloud service",
    "2600:2d00:2:1000::/56": "cloud service",
    "2600:2d00:2:2000::/56": "cloud service",
}
_BLOCKED: list[tuple[Network, str]] = [
    (ip_network(text), kind) for text, kind in (_BLOCKED_V4 | _BLOCKED_V6 | _BLOCKED_CLOUD).items()
]
# All other IPv6 addresses are reserved: IANA has allocated global unicast only in this range.
_GLOBAL_V6 = IPv6Network("2000::/3")


def parse_address(text: str) -> Address:
    """Parse an address; drops a zone (``%eth0``) and turns ``::ffff:1.2.3.4`` into IPv4.

    Raises:
        ValueError: the text is not an address.
    """
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def why_blocked(address: Address, *, allowed: Sequence[Network] = ()) -> str | None:
    """The kind of the blocked range that contains ``address``; None if the address is allowed.

    Args:
        allowed: networks that are allowed although they are in a blocked range.
    """
    if any(address in network for network in allowed):
        return None
    for network, kind in _BLOCKED:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return "reserved"
    return None
