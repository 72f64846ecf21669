"""A fleet in YAML: read as meant, or told what is wrong, line by line."""

from datetime import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpp_pipeline.fleet.problems import RegistryError
from vpp_pipeline.fleet.yaml_file import read

SOUND = """\
sites:
  - site_id: home
    latitude: 39.7
    longitude: 14.8
    grid: {import_limit_kw: 20, export_limit_kw: 10}
    tags: [no]
    devices:
      - type: battery
        device_id: store
        connection: {protocol: modbus, host: 10.0.0.7}
        max_charge_kw: 5
        max_discharge_kw: 5
        energy_capacity_kwh: 10
      - type: flexible_load
        device_id: pump
        connection: {protocol: simulated, over: http}
        rated_power_kw: 2
        energy_kwh: 6
        earliest: 20:00
        latest: 06:00
groups:
  - {group_id: all, tags: [no]}
"""


def problems_of(text):
    fleet, problems = read(text.encode(), "f.yaml")
    assert (fleet is None) == bool(problems)
    return problems


def only(text):
    (problem,) = problems_of(text)
    return problem


def test_a_sound_file_is_read_with_nothing_to_say():
    fleet, problems = read(SOUND.encode(), "f.yaml")
    assert problems == []
    assert [d.device_id for d in fleet.sites[0].devices] == ["store", "pump"]


def test_times_and_words_are_not_taken_for_numbers_and_truth_values():
    fleet, _ = read(SOUND.encode(), "f.yaml")
    assert fleet.sites[0].devices[1].earliest == time(20)
    assert fleet.sites[0].tags == ("no",)


def test_a_byte_order_mark_does_no_harm():
    assert read(b"\xef\xbb\xbf" + SOUND.encode(), "f.yaml")[1] == []


@pytest.mark.parametrize(
    ("was", "becomes", "line", "field", "value"),
    [
        ("max_charge_kw: 5", "max_charge_kw: -5", 11, "sites[0].devices[0].max_charge_kw", "-5"),
        (
            "max_charge_kw: 5",
            "max_charge_kw: true",
            11,
            "sites[0].devices[0].max_charge_kw",
            "True",
        ),
        ("max_charge_kw: 5", "max_charge_kw: '5'", 11, "sites[0].devices[0].max_charge_kw", "'5'"),
        ("max_charge_kw: 5", "max_charge_kw: .nan", 11, "sites[0].devices[0].max_charge_kw", "nan"),
        ("max_charge_kw: 5", "max_charge: 5", 11, "sites[0].devices[0].max_charge", "5"),
        ("type: battery", "type: batery", 8, "sites[0].devices[0].type", "'batery'"),
        (
            "protocol: modbus",
            "protocol: can",
            10,
            "sites[0].devices[0].connection.protocol",
            "'can'",
        ),
        ("host: 10.0.0.7", "port: 0", 10, "sites[0].devices[0].connection.port", "0"),
        ("device_id: store", "device_id: Store", 9, "sites[0].devices[0].device_id", "'Store'"),
        ("earliest: 20:00", "earliest: 8", 19, "sites[0].devices[1].earliest", "8"),
        (
            "longitude: 14.8",
            "longitude: 14.8\n    timezone: Mars",
            5,
            "sites[0].timezone",
            "'Mars'",
        ),
        ("group_id: all, tags: [no]", "group_id: all, tags: [x]", 22, "groups[0].tags[0]", "'x'"),
        ("all, tags: [no]", "all, devices: [gone]", 22, "groups[0].devices[0]", "'gone'"),
        ("groups:", "extra: 1\ngroups:", 21, "extra", "1"),
    ],
)
def test_a_problem_names_file_line_field_value_reason_and_remedy(was, becomes, line, field, value):
    found = [p for p in problems_of(SOUND.replace(was, becomes, 1)) if p.value]
    problem = found[0]
    assert (problem.file, problem.line, problem.row) == ("f.yaml", line, None)
    assert (problem.field, problem.value) == (field, value)
    assert problem.reason
    assert problem.remedy
    assert str(problem) == f"f.yaml:{line}: {field} {value} {problem.reason}; {problem.remedy}"


def test_what_is_missing_is_placed_at_its_record():
    problem = only(SOUND.replace("        energy_capacity_kwh: 10\n", ""))
    assert (problem.line, problem.field) == (8, "sites[0].devices[0].energy_capacity_kwh")
    assert (problem.reason, problem.remedy) == ("is missing", "add it")


def test_a_key_written_twice_is_refused_where_it_stands_again():
    problem = only(SOUND.replace("        energy_kwh: 6\n", "        energy_kwh: 6\n" * 2))
    assert (problem.line, problem.field) == (19, "sites[0].devices[1].energy_kwh")
    assert problem.reason == "stands twice, first in line 18"


def test_a_device_id_stands_once_in_the_whole_fleet():
    problem = only(SOUND.replace("device_id: pump", "device_id: store"))
    assert (problem.line, problem.field) == (15, "sites[0].devices[1].device_id")
    assert problem.reason == "names two devices, first at sites[0].devices[0]"


def test_a_modbus_address_and_unit_stands_once_even_where_it_is_the_default():
    address = "connection: {protocol: modbus, host: 10.0.0.7, port: 502, unit_id: 1}"
    problem = only(SOUND.replace("connection: {protocol: simulated, over: http}", address))
    assert (problem.line, problem.value) == (16, "'10.0.0.7:502:1'")


def test_many_devices_may_share_a_broker():
    text = SOUND.replace("protocol: modbus, host: 10.0.0.7", "protocol: mqtt")
    assert problems_of(text.replace("protocol: simulated, over: http", "protocol: mqtt")) == []


def test_a_charge_point_and_connector_stands_once_even_where_it_is_the_default():
    charger = (
        "      - type: ev_charger\n        device_id: {}\n        max_charge_kw: 11\n"
        "        connection: {{protocol: ocpp, charge_point_id: CP-1{}}}\n"
    )
    both = charger.format("ev-1", "") + charger.format("ev-2", ", connector_id: 1")
    problem = only(SOUND.replace("groups:", f"{both}groups:"))
    assert (problem.line, problem.value) == (28, "'CP-1:1'")
    assert problem.field == "sites[0].devices[3].connection.connector_id"
    assert "first at sites[0].devices[2]" in problem.reason
    assert (
        problems_of(SOUND.replace("groups:", f"{both.replace('r_id: 1', 'r_id: 2')}groups:")) == []
    )


def test_a_register_map_that_there_is_not_is_told_with_those_there_are_the_nearest_first():
    problem = only(SOUND.replace("host: 10.0.0.7", "register_map: huawei-luna200"))
    assert (problem.line, problem.value) == (10, "'huawei-luna200'")
    assert problem.field == "sites[0].devices[0].connection.register_map"
    assert problem.reason == "is no register map"
    assert problem.remedy.startswith("write one of huawei-luna2000, ")
    assert "go-e-charger" in problem.remedy


def test_a_register_map_of_another_device_is_refused_and_a_meters_is_for_all():
    problem = only(SOUND.replace("host: 10.0.0.7", "register_map: go-e-charger"))
    assert problem.field == "sites[0].devices[0].connection.register_map"
    assert problem.reason == "is for type ev_charger, and this is of type battery"
    for suits in ("huawei-luna2000", "eastron-sdm630"):
        assert problems_of(SOUND.replace("host: 10.0.0.7", f"register_map: {suits}")) == []


@pytest.mark.parametrize(
    ("connection", "field"),
    [
        ("protocol: ocpp, charge_point_id: CP-1", "protocol"),
        ("protocol: simulated, over: ocpp", "over"),
    ],
)
def test_what_is_no_charger_is_not_reached_over_ocpp(connection, field):
    problem = only(SOUND.replace("protocol: simulated, over: http", connection))
    assert (problem.line, problem.value) == (16, "'ocpp'")
    assert problem.field == f"sites[0].devices[1].connection.{field}"
    assert "flexible_load" in problem.reason
    assert "modbus, mqtt or http" in problem.remedy


@pytest.mark.parametrize("url", ["https://me:hush@h/api", '"https://me:hu sh/hush@h"'])
def test_a_secret_in_an_address_is_refused_and_never_shown(url):
    problems = problems_of(
        SOUND.replace("protocol: modbus, host: 10.0.0.7", f"protocol: http, url: {url}")
    )
    assert {problem.field for problem in problems} == {"sites[0].devices[0].connection.url"}
    assert not any(part in str(problem) for problem in problems for part in ("hu", "sh", "me:"))


def test_a_user_in_an_address_is_told_to_be_named_as_credentials():
    problem = only(
        SOUND.replace("protocol: modbus, host: 10.0.0.7", "protocol: http, url: http://me@h")
    )
    assert (problem.value, problem.reason) == ("'http://…@h'", "holds a user or password")
    assert "name its `credentials`" in problem.remedy


def test_a_group_has_members():
    problem = only(SOUND.replace("all, tags: [no]", "all, tags: []"))
    assert (problem.line, problem.field, problem.value) == (22, "groups[0]", "'all'")
    assert problem.reason == "has no member"


def test_a_simulated_device_is_never_live():
    live = "connection: {protocol: simulated, over: http}\n        live: true"
    problem = only(SOUND.replace("connection: {protocol: simulated, over: http}", live))
    assert problem.field == "sites[0].devices[1].live"


def test_site_and_group_ids_stand_once():
    text = SOUND + "  - {group_id: all, tags: [no]}\n"
    assert only(text).field == "groups[1].group_id"


def test_everything_is_told_in_one_go_and_in_the_files_order():
    text = (
        SOUND.replace("latitude: 39.7", "latitude: 139.7")
        .replace("max_charge_kw: 5", "max_charge_kw: 0\n        min_soc: 0.9\n        max_soc: 0.5")
        .replace("device_id: pump", "device_id: store")
        .replace("tags: [no]}", "tags: [gone]}")
        + "extra: 1\n"
    )
    fields = [p.field for p in problems_of(text)]
    assert fields == [
        "sites[0].latitude",
        "sites[0].devices[0].max_charge_kw",
        "sites[0].devices[0].max_soc",
        "sites[0].devices[1].device_id",
        "groups[0].tags[0]",
        "extra",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# nothing yet\n", "is empty"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"\x00\x01\x02", "is no YAML"),
        (b"sites: [", "is no YAML"),
        (b"a: 1\n---\nb: 2\n", "is no YAML"),
        (b"sites: !!python/object:os.system x", "is no YAML"),
        (b"sites: !!int x", "is no YAML"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"just text", "is no record"),
        (b"sites: []", "holds no device"),
        (b"sites: &a [*a]", "is no record"),
        (b"sites: {}", "is no list"),
    ],
)
def test_a_file_that_is_no_fleet_is_refused_in_words(content, said):
    fleet, problems = read(content, "f.yaml")
    assert fleet is None
    assert any(said in str(problem) for problem in problems)


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, len(SOUND)), st.text(max_size=8)).map(
            lambda cut: (SOUND[: cut[0]] + cut[1] + SOUND[cut[0] + 3 :]).encode("utf-8", "replace")
        ),
    )
)
def test_no_content_brings_the_reader_down(content):
    fleet, problems = read(content, "f.yaml")
    assert (fleet is None) == bool(problems)


def test_the_error_of_a_registry_tells_all_its_problems():
    problems = problems_of(
        SOUND.replace("max_charge_kw: 5", "max_charge_kw: 0").replace("39.7", "99")
    )
    error = RegistryError(problems)
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == ["the fleet registry has 2 problems:", *map(str, problems)]
