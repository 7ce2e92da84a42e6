"""Where a webhook may connect to, address by address."""

from __future__ import annotations

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from foreshock.alerting.sinks.addresses import AddressRefused, CheckedResolver, refusal


class ScriptedResolver(AbstractResolver):
    """A DNS server that changes its mind: the next answer of the list for every question, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        address = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


ALWAYS_REFUSED = (
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "0.0.0.0",
    "::",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
)
PRIVATE = ("127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1")
PUBLIC = ("1.1.1.1", "2606:4700::1111", "64:ff9b::101:101")


@pytest.mark.parametrize("address", ALWAYS_REFUSED)
def test_metadata_and_link_local_are_refused_whatever_is_allowed(address: str) -> None:
    """No setting lets a webhook read a cloud's metadata, in whatever notation the address comes."""
    assert refusal(address, allow_private=True) is not None
    assert refusal(address, allow_private=False) is not None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_permission(address: str) -> None:
    """A private address is refused unless the administrator allows it."""
    assert refusal(address, allow_private=False) == "a private or loopback address"
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_fine(address: str) -> None:
    """The internet needs no permission."""
    assert refusal(address, allow_private=False) is None


async def test_one_bad_answer_refuses_the_name() -> None:
    """A name that leads to a public address now and to a private one later is refused when it does."""
    resolver = CheckedResolver(ScriptedResolver("1.1.1.1", "10.0.0.1"), allow_private=False)
    assert [answer["host"] for answer in await resolver.resolve("flip.example", 80)] == ["1.1.1.1"]
    with pytest.raises(AddressRefused, match=r"flip\.example leads to 10\.0\.0\.1, a private"):
        await resolver.resolve("flip.example", 80)
    await resolver.close()
