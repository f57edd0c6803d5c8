"""What an allow-list lets through, and which addresses a name may stand for. Owns the rules; connects to nothing.

An entry is `host`, `host:port`, `*.host`, `*.host:port`, an IPv4 address or `[IPv6]`; without a port it means 80 and
443. Names are compared as text, so nothing is asked of a name server about a host that is not on the list.
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
"""Where clouds tell a machine its secrets, beside the link-local 169.254.169.254."""
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """Where a program wants to go: a name in lower case or an address in its shortest form, and a port."""

    host: str
    port: int

    @property
    def address(self) -> Address | None:
        """The host where it is an address and no name."""
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
        """Whether this entry names the target."""
        if target.port not in self.ports:
            return False
        if self.host.startswith("."):
            return target.host.endswith(self.host)
        return target.host == self.host


def split_authority(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `[IPv6]` or `[IPv6]:port`; the port is None where there is none.

    Raises: ValueError for anything else: user names, paths, blanks, other spellings of an address.
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
    # A resolver takes 127.1 and 0x7f000001 for addresses; we take the usual spelling only.
    return str(IPv4Address(host)) if _NUMBER.fullmatch(labels[-1]) else host


def parse_entry(text: str) -> Entry:
    """An entry as a person writes it.

    Raises: ValueError with what is wrong with it.
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
    """Whether one of the entries names the target."""
    return any(entry.lets(target) for entry in entries)


def objection(address: Address, *, private: bool) -> str:
    """Why a name that stands for this address leads nowhere; empty where it may be used.

    Args:
        address: what the name was resolved to.
        private: whether private networks and the host's loopback are meant too. Link-local and metadata
            addresses never are: an entry must spell them out.
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
    """The IPv4 address that an IPv6 one is carried to."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
