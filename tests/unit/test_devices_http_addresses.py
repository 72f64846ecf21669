"""Which addresses a registry's URL may lead to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpp_pipeline.devices.http_connection import NotConnected, addresses_to_call, is_public

METADATA = "169.254.169.254"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name server's answers; it is asked for names only."""
    known: dict[str, list[str]] = {}

    def answer(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.0.7", METADATA, "8.8.8.8", "::1"])
def test_an_address_that_the_registry_names_is_called_whatever_it_is(address: str) -> None:
    assert addresses_to_call(address, 80) == [address]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        METADATA,
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        f"::ffff:{METADATA}",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_a_name_that_stands_for_an_address_inside_is_refused_with_the_remedy(
    names: dict[str, list[str]], address: str
) -> None:
    names["gateway.example"] = [address]
    with pytest.raises(NotConnected, match=r"not public: .* write the address itself"):
        addresses_to_call("gateway.example", 443)


def test_of_a_names_addresses_only_the_public_ones_are_called(names: dict[str, list[str]]) -> None:
    names["gateway.example"] = [METADATA, "93.184.215.14", "10.0.0.1", "93.184.215.14", "2600::1"]
    assert addresses_to_call("gateway.example", 443) == ["93.184.215.14", "2600::1"]


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost"])
def test_another_way_to_write_the_loopback_is_no_address_and_does_not_pass_for_one(
    host: str,
) -> None:
    with pytest.raises(NotConnected):
        addresses_to_call(host, 80)


def test_a_name_without_an_address_is_told(names: dict[str, list[str]]) -> None:
    with pytest.raises(NotConnected, match="name without an address"):
        addresses_to_call("nowhere.example", 80)


@given(st.ip_addresses(v=4))
def test_an_ipv6_dress_makes_no_private_address_public(address: IPv4Address) -> None:
    dresses = [
        IPv6Address(f"::ffff:{address}"),
        IPv6Address(int(IPv6Address("64:ff9b::")) + int(address)),
        IPv6Address(int(IPv6Address("2002::")) + (int(address) << 80)),
    ]
    assert {is_public(str(dress)) for dress in dresses} == {is_public(str(address))}
