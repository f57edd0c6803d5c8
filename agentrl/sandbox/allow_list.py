"""What an allow-list lets through, and which addresses a name may stand for. Owns the rules; connects to nothing.

An entry is `host`, `host:port`, `*.host`, `*.host:port`, an IPv4 address or `[IPv6]`; without a port it means ports 80
and 443. Names are compared as text, so a host that is not on the list is never looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
_DEFAULT_PORTS = (80, 443)
_AUTHORITY = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9a-zA-Z._-]{1,254}))(?::([0-9]{1,5}))?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_MAX_LABEL, _MAX_NAME = 63, 253
_METADATA = {ip_address(text) for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")}
"""Where cloud providers give a machine its credentials, in addition to the link-local 169.254.169.254."""
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """Where a program wants to connect to: a name in lower case or an address in its shortest form, and a port."""

    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The host as an address; None if it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Entry:
    """One entry of an allow-list; a wildcard's host begins with a dot."""

    host: str
    ports: tuple[int, ...]

    def lets(self, target: Target) -> bool:
        """Whether this entry lets the target through."""
        if target.port not in self.ports:
            return False
        if self.host.startswith("."):
            return target.host.endswith(self.host)
        return target.host == self.host


def split_authority(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`; the port is None if there is none.

    Raises: ValueError for anything else, such as user names, paths, blanks and other spellings of an address.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise ValueError("it is no host, host:port, [IPv6] or [IPv6]:port")
    six, name, port = found.groups()
    if port is not None and not 0 < int(port) < 1 << 16:
        raise ValueError(f"there is no port {port}")
    host = IPv6Address(six).compressed if six else _name(name)
    return host, None if port is None else int(port)


def _name(text: str) -> str:
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > _MAX_NAME or not all(0 < len(label) <= _MAX_LABEL for label in labels):
        raise ValueError("its name is empty or too long")
    # A resolver reads 127.1 and 0x7f000001 as addresses; only the usual spelling is accepted here.
    return str(IPv4Address(host)) if _NUMBER.fullmatch(labels[-1]) else host


def parse_entry(text: str) -> Entry:
    """The entry that a text means.

    Raises: ValueError that says what is wrong with the text.
    """
    wild = text.startswith("*.")
    try:
        host, port = split_authority(text.removeprefix("*."))
    except ValueError as error:
        raise ValueError(f"Network.allow: {text!r} cannot be used, {error}; write 'example.org:443'") from error
    if wild and ("." not in host or Target(host, 1).address is not None):
        raise ValueError(f"Network.allow: {text!r} cannot be used; a wildcard stands before a name such as example.org")
    return Entry(f".{host}" if wild else host, _DEFAULT_PORTS if port is None else (port,))


def lets(entries: Iterable[Entry], target: Target) -> bool:
    """Whether one of the entries lets the target through."""
    return any(entry.lets(target) for entry in entries)


def objection(address: Address, *, private: bool) -> str:
    """Why a name must not lead to this address; empty if it may.

    Args:
        address: what the name was resolved to.
        private: whether private networks and the host's loopback are allowed. Link-local and metadata addresses
            never are; only an entry that is such an address allows it.
    """
    inner = _embedded(address)
    if inner is not None:
        return objection(inner, private=private)
    if address in _METADATA or address.is_link_local:
        return "a link-local or metadata address"
    if address.is_loopback or (address.is_private and not address.is_unspecified and not address.is_reserved):
        return "" if private else "a private or loopback address"
    if address.is_multicast or address.is_unspecified or address.is_reserved or not address.is_global:
        return "an address of no single public machine"
    return ""


def _embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, such as 1.2.3.4 of ::ffff:1.2.3.4; None for others."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
