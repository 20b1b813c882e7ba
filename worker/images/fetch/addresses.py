"""Address -> whether it is one of the public internet; sockets that lead only there."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

# What is handed out for use in the internet. The rest is local, reserved or for experiments.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
# By which networks without IPv4 reach it, RFC 6052.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_V4_BITS: Final = 0xFFFF_FFFF


class PrivateAddressError(OSError):
    """A name leads into a private network, or to this machine."""


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for `(family, type, protocol, name, address)`, as aiohttp asks for one.

    What is looked at is the address that is connected to, so no name can lead elsewhere later.

    Raises:
        PrivateAddressError: it is not of the public internet.
    """
    family, kind, protocol, _, (host, *_) = address
    if not is_public(host):
        msg = "the address is private"
        raise PrivateAddressError(msg)
    return socket.socket(family, kind, protocol)


def is_public(host: str) -> bool:
    """Whether a numeric address, IPv4 or IPv6, is one of the public internet."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        inner = _carried(address)
        if inner is None:
            return address in _GLOBAL_UNICAST and address.is_global
        address = inner
    return address.is_global and not address.is_multicast


def _carried(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address to which packets to this one go in the end, if it holds one."""
    if address in _NAT64:
        return IPv4Address(int(address) & _V4_BITS)
    return address.ipv4_mapped or address.sixtofour
