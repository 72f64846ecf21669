"""The pauses of a connection that does not last, and the properties as they go on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from vpp_pipeline.devices import mqtt_client
from vpp_pipeline.devices.mqtt_client import (
    BrokerAddress,
    Handlers,
    PublishProperties,
    unique_client_id,
)

if TYPE_CHECKING:
    import pytest


class Pauses:
    """What a client was told about its pauses before it reconnects."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def reconnect_delay_set(self, min_delay: float, _max_delay: float) -> None:
        self.told.append(min_delay)


def test_a_connection_that_is_lost_again_and_again_comes_back_ever_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(mqtt_client.time, "monotonic", lambda: now[0])
    lost: list[str] = []
    handlers = Handlers(lambda *_: None, on_lost=lost.append)
    connecting = mqtt_client._Connecting(
        BrokerAddress("127.0.0.1:1"), "ours", [], handlers, reconnects=True, threaded=True
    )
    client = Pauses()
    for lasted_s in (1, 1, 1, 1, 1, 1, 1, 1, 31, 1):
        connecting._stand(client)
        now[0] += lasted_s
        for _ in range(2):  # as the library does
            connecting._on_disconnect(client, None, None, "Session taken over", None)
    assert client.told == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]
    assert len(lost) == 10
    assert "client id ours, which another client took" in lost[0]


def test_no_two_clients_share_an_id() -> None:
    ids = {unique_client_id("dispatcher") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(name.startswith("vpp-dispatcher-") for name in ids)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.none() | st.tuples(st.text("abz/+é", max_size=200), st.text(max_size=200)),
)
def test_properties_are_packed_as_the_library_packs_them(
    expiry_s: int, answer: tuple[str, str] | None
) -> None:
    theirs = Properties(PacketTypes.PUBLISH)
    theirs.MessageExpiryInterval = max(expiry_s, 1)
    if answer:
        theirs.ResponseTopic = answer[0]
        theirs.CorrelationData = answer[1].encode()
    read = Properties(PacketTypes.PUBLISH)
    read.unpack(PublishProperties(expiry_s, answer).pack())
    assert read.json() == theirs.json()
