"""What an allow-list's entries mean, how they may be written, and where a name may never lead."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentrl.sandbox import Network, SandboxSpec
from agentrl.sandbox.allow_list import Entry, Target, objection, parse_entry, split_authority


@pytest.mark.parametrize(
    ("entry", "let", "not_let"),
    [
        ("Example.ORG", ["example.org:80", "example.org:443"], ["example.org:8080", "www.example.org:443"]),
        ("example.org.", ["example.org:80"], ["example.com:80", "badexample.org:80"]),
        ("example.org:8443", ["example.org:8443"], ["example.org:443"]),
        ("*.example.org", ["a.example.org:443", "b.a.example.org:80"], ["example.org:443", "xexample.org:443"]),
        ("*.example.org:1", ["a.example.org:1"], ["a.example.org:443"]),
        ("127.0.0.1:80", ["127.0.0.1:80"], ["127.0.0.2:80", "localhost:80", "[::ffff:127.0.0.1]:80"]),
        ("[2001:DB8:0::1]:80", ["[2001:db8::1]:80", "[2001:db8:0:0::1]:80"], ["[2001:db8::2]:80"]),
    ],
)
def test_an_entry_lets_through_what_it_names(entry, let, not_let):
    def goes(text: str) -> bool:
        host, port = split_authority(text)
        assert port is not None
        return parse_entry(entry).lets(Target(host, port))

    assert [text for text in let if not goes(text)] == []
    assert [text for text in not_let if goes(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "", "https://example.org", "example.org/x", "example.org:0", "example.org:65536", "example.org:x", "*", "*.",
        "*.org", "*.127.0.0.1", "a*.example.org", "user@example.org", "exa mple.org", "127.1", "0x7f.1", "2130706433",
        "0x7f000001", "127.0.0.01", "example..org", ".example.org", "::1", "[::1", "[::1%eth0]", "ex\u00e4mple.org",
        "a" * 64 + ".org", "example.org:80\r\nX: y",
    ],
)  # fmt: skip
def test_what_is_no_entry_is_refused_with_its_name(text):
    with pytest.raises(ValueError, match=r"Network\.allow: '"):
        Network((text,))


def test_a_list_that_is_one_text_is_refused():
    with pytest.raises(TypeError, match="must be a tuple of hosts"):
        Network("example.org")
    with pytest.raises(ValueError, match="max_bytes must be above 0"):
        Network(("example.org",), max_bytes=0)


def test_the_network_is_off_by_default():
    assert SandboxSpec().network.off
    assert not Network(("example.org",)).off
    assert parse_entry("example.org") == Entry("example.org", (80, 443))


NOWHERE = "169.254.169.254 fe80::1 fe80::1%eth0 100.100.100.200 168.63.129.16 fd00:ec2::254 192.0.0.192 0.0.0.0 ::"
NOWHERE += " 224.0.0.1 239.255.255.250 ff02::1 255.255.255.255 240.0.0.1 100.64.0.1 ::ffff:169.254.169.254"
NOWHERE += " 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: ::169.254.169.254"
PRIVATE = "127.0.0.1 127.8.8.8 ::1 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 fd12::1 ::ffff:127.0.0.1"
PRIVATE += " ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"
PUBLIC = "1.1.1.1 172.15.0.1 172.32.0.1 11.0.0.1 2606:4700::1111 ::ffff:1.1.1.1 64:ff9b::101:101 2002:101:101::"


@pytest.mark.parametrize("private", [False, True])
def test_a_name_leads_to_public_addresses_and_where_it_is_asked_for_to_private_ones(private):
    assert [text for text in NOWHERE.split() if not objection(ip_address(text), private=private)] == []
    assert [text for text in PUBLIC.split() if objection(ip_address(text), private=private)] == []
    refused = [text for text in PRIVATE.split() if objection(ip_address(text), private=private)]
    assert refused == ([] if private else PRIVATE.split())
