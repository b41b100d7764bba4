"""Which addresses are on the public internet."""

from __future__ import annotations

import pytest

from clipflow.ingest.web.addresses import is_allowed, is_disguised

PUBLIC = ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "192.0.1.1",
          "2606:4700::1111", "2a00:1450:4001::1"]  # fmt: skip
REFUSED = {
    "this network": ["0.0.0.0", "0.1.2.3", "::"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    "shared by carriers": ["100.64.0.1", "100.127.255.255", "100.100.100.200"],
    "link-local and metadata": ["169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0"],
    "metadata of clouds": ["168.63.129.16", "192.0.0.192", "fd00:ec2::254"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.0.1", "198.18.0.1", "192.0.2.1", "203.0.113.1"],
    "unique local, site-local": ["fc00::1", "fd12::1", "fec0::1"],
    "IPv4 in IPv6": ["::ffff:10.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808",
                     "64:ff9b:1::1", "2002:0a00:1::1", "2002:808:808::1", "2001::1"],
    "relays, documentation, discard": ["192.88.99.1", "2001:db8::1", "100::1"],
}  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1"]


@pytest.mark.parametrize("loopback", [False, True])
def test_public_addresses_and_loopback_if_wanted(loopback: bool) -> None:
    assert all(is_allowed(address, allow_loopback=loopback) for address in PUBLIC)
    assert all(is_allowed(address, allow_loopback=loopback) is loopback for address in LOOPBACK)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("loopback", [False, True])
def test_all_others_are_refused(kind: str, loopback: bool) -> None:
    for address in REFUSED[kind]:
        assert not is_allowed(address, allow_loopback=loopback), address


def test_names_are_no_addresses() -> None:
    for text in ("example.org", "", "127.1", "10.0.0.01"):
        with pytest.raises(ValueError, match="does not appear to be"):
            is_allowed(text, allow_loopback=True)


def test_disguised_addresses() -> None:
    for host in (
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "010.0.0.1",
        "0xA9.0xFE.169.254",
    ):
        assert is_disguised(host), host
    for host in (
        "127.0.0.1",
        "8.8.8.8",
        "example.org",
        "1.example",
        "::1",
        "a" * 300,
        "bücher.test",
        "",
    ):
        assert not is_disguised(host), host
