"""Faults of the network between dispatcher and devices, survived end to end."""

from __future__ import annotations

import socket
import ssl
from datetime import timedelta

import faults_proxy as net
import polars as pl
import pytest
from devices_modbus_certificates import issue, make_authority
from faults_story import START

LATE = ["PLANNED", "SENT", "UNKNOWN", "VERIFIED"]
AGAIN = ["PLANNED", "SENT", "UNKNOWN", "FAILED", "SENT", "VERIFIED"]

both = pytest.mark.plant(["modbus", "http"])
modbus = pytest.mark.plant(["modbus"])


def fault(name, *invariants):
    return pytest.mark.fault(family="Transport", fault=name, invariants=invariants)


def others_verified(story, first):
    for device_id in story.devices["device_id"]:
        if device_id != first:
            assert story.path(device_id)[-1] == "VERIFIED", device_id


@both
@fault("connection refused", 6, 18)
@pytest.mark.parametrize("protocol", ["modbus", "http"])
def test_a_device_that_refuses_connections_is_told_once_it_listens_again(story, protocol):
    story.collect()
    story.proxies[protocol].refuse()
    story.push(collect=False)
    assert set(story.path(f"{protocol}-1")) == {"PLANNED", "SENT", "FAILED"}
    others_verified(story, f"{protocol}-1")
    story.proxies[protocol].accept()
    assert story.next_interval().counts == {"VERIFIED": 4}
    assert story.applications(f"{protocol}-1") == [2.0]


@both
@fault("offline: dead behind its gateway", 6, 18)
@pytest.mark.parametrize("protocol", ["modbus", "http"])
def test_a_device_that_dies_after_it_was_read_is_told_when_it_lives_again(story, protocol):
    story.collect()
    story.plant.set_outage(f"{protocol}-1", True)
    story.hurry()
    story.push(collect=False)
    assert "VERIFIED" not in story.path(f"{protocol}-1")
    assert story.applications(f"{protocol}-1") == []
    others_verified(story, f"{protocol}-1")
    story.plant.set_outage(f"{protocol}-1", False)
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 4}


@pytest.mark.core
@modbus
@fault("reset before the device", 6)
def test_a_write_that_never_arrived_is_read_back_before_it_is_sent_again(story):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.reset_at_request, times=1)
    story.push()
    assert story.steps("modbus-1") == AGAIN
    assert story.applications("modbus-1") == [3.0]


@pytest.mark.core
@modbus
@fault("reset after the device obeyed", 5, 6)
def test_a_write_whose_answer_is_cut_off_is_found_in_the_device_and_not_repeated(story):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.reset_at_answer, times=1)
    story.push()
    assert story.steps("modbus-1") == LATE
    assert story.applications("modbus-1") == [3.0]


@pytest.mark.core
@both
@fault("half-open: the line stands, nothing passes", 6, 18)
@pytest.mark.parametrize("protocol", ["modbus", "http"])
def test_a_black_hole_holds_up_nobody_else_and_is_told_after_it(story, protocol):
    story.collect()
    story.proxies[protocol].fault = net.swallow
    story.hurry()
    story.push(collect=False)
    assert story.path(f"{protocol}-1")[-1] in {"FAILED", "UNKNOWN"}
    others_verified(story, f"{protocol}-1")
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 4}


@pytest.mark.core
@both
@fault("the answer is lost", 5, 6)
@pytest.mark.parametrize("protocol", ["modbus", "http"])
def test_a_lost_answer_is_a_doubt_that_a_read_back_ends(story, protocol):
    story.collect()
    story.proxies[protocol].fault = net.no_answer
    story.hurry()
    story.after_send[protocol] = story.mend
    story.push(collect=False)
    path = story.path(f"{protocol}-1")
    assert path[-1] == "VERIFIED"
    assert story.applications(f"{protocol}-1") == [3.0]


@modbus
@fault("slower than the time-out, with a late answer", 6)
def test_an_answer_after_the_time_out_is_not_taken_for_another_requests(story):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.late(1.2), times=1)
    story.hurry()
    story.push()
    assert story.steps("modbus-1") == LATE
    assert story.applications("modbus-1") == [3.0]


@pytest.mark.core
@modbus
@fault("truncated frame", 6)
def test_a_truncated_answer_to_a_write_is_no_answer(story):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.truncated, times=1)
    story.push()
    assert story.steps("modbus-1") == LATE


@modbus
@fault("duplicate answers", 6)
def test_doubled_answers_are_never_taken_for_those_of_the_next_request(story):
    story.proxies["modbus"].fault = net.doubled
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("modbus-1") == [3.0]


def flipped_transaction(frame):
    return bytes([frame[0] ^ 0x40]) + frame[1:]


def flipped_function(frame):
    return frame[:7] + bytes([frame[7] ^ 0x20]) + frame[8:]


def other_unit(frame):
    return frame[:6] + bytes([frame[6] ^ 1]) + frame[7:]


@modbus
@fault("corrupt bytes, wrong unit id", 6)
@pytest.mark.parametrize("corrupt", [flipped_transaction, flipped_function, other_unit])
def test_an_answer_that_is_not_ours_is_no_answer(story, corrupt):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.rewritten(corrupt), times=1)
    story.push()
    assert story.steps("modbus-1") == LATE
    assert story.applications("modbus-1") == [3.0]


@modbus
@fault("slow drip, byte by byte", 6)
def test_answers_that_come_byte_by_byte_are_read_whole(story):
    story.collect()
    story.proxies["modbus"].fault = net.on_modbus_writes(net.dripped)
    assert story.push(collect=False).counts == {"VERIFIED": 2}


@modbus
@fault("Modbus exceptions 2 and 3", 18)
@pytest.mark.parametrize("code", [2, 3])
def test_what_a_device_says_it_can_never_do_is_not_tried_again(story, code):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.modbus_exception(code))
    story.push()
    assert story.steps("modbus-1") == ["PLANNED", "SENT", "REJECTED"]
    assert story.applications("modbus-1") == []
    story.mend()
    assert story.next_interval().counts == {"VERIFIED": 2}


@pytest.mark.core
@modbus
@fault("Modbus exception 6, busy", 18)
def test_a_busy_device_is_asked_again_within_the_interval(story):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.modbus_exception(6), times=1)
    story.push()
    assert story.steps("modbus-1") == ["PLANNED", "SENT", "FAILED", "SENT", "VERIFIED"]
    assert story.applications("modbus-1") == [3.0]


@pytest.mark.core
@modbus
@fault("Modbus exceptions 5 and 0x0B", 6, 18)
@pytest.mark.parametrize("code", [5, 11])
def test_what_may_still_have_its_effect_is_read_back_before_it_is_sent_again(story, code):
    story.proxies["modbus"].fault = net.on_modbus_writes(net.modbus_exception(code), times=1)
    story.push()
    assert story.steps("modbus-1") == AGAIN
    assert story.applications("modbus-1") == [3.0]


@modbus
@fault("a second client takes the only slot", 14, 18)
def test_a_device_whose_only_slot_is_taken_is_told_when_it_is_free(story):
    story.collect()
    proxy = story.proxies["modbus"]
    proxy.slots = 1
    host, _, port = proxy.endpoint.rpartition(":")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.settimeout(0.05)
        with pytest.raises(TimeoutError):
            stranger.recv(1)  # its slot is held
        story.push(collect=False)
    assert story.applications("modbus-1") == []
    assert "VERIFIED" not in story.path("modbus-1")
    proxy.slots = 1000
    assert story.next_interval().counts == {"VERIFIED": 2}


@modbus
@fault("every connection breaks between the send and the read-back", 6, 7)
def test_a_line_that_breaks_after_the_send_is_opened_again_to_verify(story):
    story.after_send["modbus"] = story.proxies["modbus"].cut
    assert story.push().counts == {"VERIFIED": 2}
    assert story.applications("modbus-1") == [3.0]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    for name in ("server", "client"):
        issue(folder, name)
    issue(folder, "late-server", expired=True)
    return folder


def shown_by(certificates, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def under_tls(request, certificates, monkeypatch):
    """The device's certificate has expired, or we have none to show."""
    monkeypatch.setenv("VPP_CREDENTIAL_SITE_CA_FILE", str(certificates / "ca.pem"))
    if request.param == "late-server":
        for field, suffix in (("CERT", "pem"), ("KEY", "key")):
            file = str(certificates / f"client.{suffix}")
            monkeypatch.setenv(f"VPP_CREDENTIAL_SITE_{field}_FILE", file)
    return {"modbus_tls": shown_by(certificates, request.param)}


@pytest.mark.plant(["modbus"], prepared_by="under_tls")
@fault("TLS: an expired certificate, or none of ours", 18, 19)
@pytest.mark.parametrize("under_tls", ["late-server", "server"], indirect=True)
def test_a_failed_handshake_names_the_certificate_and_sends_nothing(under_tls, story, request):
    first = pl.col("device_id") == "modbus-1"
    story.collect()
    story.true_clock.sleep_until(START - timedelta(minutes=1))
    story.land(story.plant.reading("modbus-1"))  # as another told who may come in
    story.devices = story.devices.with_columns(
        tls=first, credentials=pl.when(first).then(pl.lit("site"))
    )
    story.push(collect=False)
    assert story.applications("modbus-1") == []
    expired = "late-server" in request.node.name
    words = "certificate has expired" if expired else "closed the TLS connection"
    assert words in story.words("modbus-1")
    assert story.path("modbus-2")[-1] == "VERIFIED"


@modbus
@fault("a healthy plant, to know the judges can be content", 5, 7)
def test_with_no_fault_every_command_is_verified_and_applied_once(story):
    assert story.push().counts == {"VERIFIED": 2}
    assert story.next_interval().counts == {"VERIFIED": 2}
    assert story.applications("modbus-1") == [3.0, 2.0]
