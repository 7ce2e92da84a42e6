"""Where a webhook may connect to (SSRF): addresses are checked after the one resolution that the connection uses."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

_METADATA = (
    ip_network("169.254.0.0/16"),  # AWS, Azure, Google and most others live among the link-local addresses
    ip_network("fd00:ec2::/32"),  # AWS over IPv6
    ip_network("100.100.100.200/32"),  # Alibaba
    ip_network("168.63.129.16/32"),  # Azure's wire server, which is a public address
    ip_network("192.0.0.192/32"),  # Oracle
)
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(OSError):
    """A name led to an address that this sink may not connect to; aiohttp passes an OSError of its resolver on."""


def refusal(address: str, *, allow_private: bool) -> str | None:
    """Why nobody may connect to this address, or None where it is fine.

    Link-local, metadata, multicast and unspecified addresses are refused always, private and loopback ones unless
    `allow_private`. An IPv4 address wrapped in IPv6 is judged as what it reaches.

    >>> refusal("169.254.169.254", allow_private=True)
    'a link-local or metadata address'
    >>> refusal("::ffff:127.0.0.1", allow_private=False)
    'a private or loopback address'
    """
    target = _unwrapped(ip_address(address.partition("%")[0]))
    if target.is_link_local or any(target in network for network in _METADATA if network.version == target.version):
        return "a link-local or metadata address"
    if target.is_multicast or target.is_unspecified:
        return "a multicast or unspecified address"
    if not target.is_global and not allow_private:
        return "a private or loopback address"
    return None


class CheckedResolver(AbstractResolver):
    """Resolves a name once and hands out its addresses only if every one of them may be connected to.

    aiohttp connects to exactly what this returns, so a name that changes its answer afterwards changes nothing.
    """

    def __init__(self, inner: AbstractResolver, *, allow_private: bool) -> None:
        self._inner = inner
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await self._inner.resolve(host, port, family)
        for answer in answers:
            why = refusal(answer["host"], allow_private=self._allow_private)
            if why is not None:
                raise AddressRefused(f"{host} leads to {answer['host']}, {why}")
        return answers

    async def close(self) -> None:
        await self._inner.close()


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address
