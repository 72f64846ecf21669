"""The canonical document of a fleet."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vpp_pipeline.fleet.document import content_hash, from_document, to_document
from vpp_pipeline.fleet.model import Fleet
from vpp_pipeline.fleet.sample import sample_fleet

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
power = st.floats(min_value=1e-9, max_value=1e6)


@st.composite
def devices(draw):
    connection = draw(
        st.one_of(
            st.just({"protocol": "simulated", "over": "http"}),
            st.builds(lambda p: {"protocol": "modbus", "port": p}, st.integers(1, 65535)),
        )
    )
    own = draw(
        st.one_of(
            st.builds(lambda p: {"type": "pv", "rated_power_kw": p}, power),
            st.builds(
                lambda p, t: {
                    "type": "flexible_load",
                    "rated_power_kw": p,
                    "energy_kwh": p,
                    "earliest": t,
                },
                power,
                st.times(),
            ),
        )
    )
    return own | {"device_id": draw(names), "connection": connection}


@st.composite
def fleets(draw):
    site = st.builds(
        lambda i, n, lat, members: {
            "site_id": i,
            "name": n,
            "latitude": lat,
            "longitude": 0,
            "grid": {"import_limit_kw": 1, "export_limit_kw": 0},
            "devices": members,
        },
        names,
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.floats(-90, 90),
        st.lists(devices(), max_size=3),
    )
    groups = st.lists(
        st.builds(lambda g, t: {"group_id": g, "tags": [t]}, names, names), max_size=2
    )
    tree = {"sites": draw(st.lists(site, max_size=3)), "groups": draw(groups)}
    return Fleet.model_validate(tree)


@settings(deadline=None)
@given(fleets())
def test_a_fleet_comes_back_from_its_document_unchanged(fleet):
    document = to_document(fleet)
    assert from_document(document) == fleet
    assert to_document(from_document(document)) == document


def test_a_sample_of_every_type_comes_back_from_its_document():
    fleet = sample_fleet(80, seed=3)
    assert from_document(to_document(fleet)) == fleet


def test_the_hash_names_the_content():
    fleet = sample_fleet(8, seed=1)
    assert content_hash(fleet) == content_hash(from_document(to_document(fleet)))
    assert content_hash(fleet) != content_hash(sample_fleet(8, seed=2))


def test_a_document_has_its_keys_sorted_and_says_what_was_left_out():
    tree = json.loads(to_document(sample_fleet(5, seed=1)))
    battery = tree["sites"][0]["devices"][0]
    assert list(battery) == sorted(battery)
    assert battery["charge_efficiency"] == 0.95


def test_something_else_is_no_document():
    with pytest.raises(ValidationError):
        from_document('{"sites": 1}')
