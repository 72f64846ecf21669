"""A thousand times too much or too little is warned of, and what is sold is not."""

from __future__ import annotations

import re
from datetime import time
from pathlib import Path

import polars as pl
import pytest

from vpp_pipeline.fleet import registry
from vpp_pipeline.fleet.frame import device_frame, frame_of
from vpp_pipeline.fleet.sample import sample_table
from vpp_pipeline.fleet.unlikely import unlikely
from vpp_pipeline.settings import DEMO_FLEET

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo():
    return device_frame(registry.load(DEMO_FLEET))


def test_the_fleets_of_the_documentation_are_not_warned_of(tmp_path):
    (readme,) = re.findall(
        r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    (table,) = re.findall(
        r"```csv\n(.*?)```",
        (REPOSITORY / "docs" / "fleet.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    for name, text in (("fleet.yaml", readme), ("fleet.csv", table)):
        (tmp_path / name).write_text(text)
        assert unlikely(registry.read_devices(tmp_path / name)).is_empty()


def with_value(devices, device_id, **values):
    return devices.with_columns(
        pl.when(pl.col("device_id") == device_id).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in values.items()
    )


def test_fleets_of_likely_devices_are_not_warned_of(demo):
    assert unlikely(demo).is_empty()
    assert unlikely(frame_of(sample_table(2000, seed=3))).is_empty()


@pytest.mark.parametrize(
    ("device_id", "values", "warning"),
    [
        (
            "alba-battery",
            {"energy_capacity_kwh": 10_000.0},
            ("energy_capacity_kwh", 10_000.0, "is 2000 h at its power"),
        ),
        (
            "alba-battery",
            {"energy_capacity_kwh": 0.01},
            ("energy_capacity_kwh", 0.01, "is 0.12 min at its power"),
        ),
        (
            "alba-charger",
            {"energy_capacity_kwh": 64_000.0},
            ("vehicle_capacity_kwh", 64_000.0, "is 5818 h at its power"),
        ),
        (
            "alba-pv",
            {"max_inject_kw": 8000.0},
            ("rated_power_kw", 8000.0, "is 471 times what its site's connection may carry"),
        ),
        (
            "alba-load",
            {"max_draw_kw": 6000.0},
            ("max_power_kw", 6000.0, "is 353 times what its site's connection may carry"),
        ),
    ],
)
def test_a_unit_that_was_mistaken_is_told_by_device_field_value_and_remedy(
    demo, device_id, values, warning
):
    told = unlikely(with_value(demo, device_id, **values))
    assert told.drop("remedy").rows() == [(device_id, *warning)]
    assert told["remedy"].str.contains("kW").all()


@pytest.mark.parametrize("device_type", ["wind", "chp"])
def test_a_plants_power_in_watts_is_told_behind_a_large_connection_too(demo, device_type):
    device = demo.filter(pl.col("device_type") == device_type)
    kw = 20 * device["site_export_limit_kw"][0]
    told = unlikely(with_value(demo, device["device_id"][0], max_inject_kw=kw))
    assert told.select("name", "field", "value").rows() == [
        (device["device_id"][0], "rated_power_kw", kw)
    ]


def test_a_connection_in_watts_is_told_by_its_site(demo):
    watts = pl.when(pl.col("site_id") == "alba").then(1000 * pl.col("site_import_limit_kw"))
    told = unlikely(demo.with_columns(site_import_limit_kw=watts.otherwise("site_import_limit_kw")))
    ((name, field, value, reason),) = told.drop("remedy").rows()
    assert (name, field, value) == ("alba", "import_limit_kw", 17_000.0)
    assert "times what all devices behind it can do" in reason
    assert "kW" in told["remedy"][0]


def test_powers_in_watts_are_told_for_the_power_and_for_the_energy(demo):
    told = unlikely(
        with_value(demo, "alba-battery", max_inject_kw=5000.0, max_draw_kw=5000.0)
    ).select("name", "field")
    assert told.rows() == [
        ("alba-battery", "energy_capacity_kwh"),
        ("alba-battery", "max_charge_kw"),
    ]


def test_a_daily_load_that_takes_more_than_a_day_is_told(demo):
    load = demo.filter(pl.col("device_type") == "flexible_load")["device_id"][0]
    told = unlikely(with_value(demo, load, energy_capacity_kwh=25_000.0))
    assert told["field"].to_list() == ["energy_kwh"]
    assert "a day takes" in told["reason"][0]


@pytest.mark.parametrize(
    ("earliest", "latest", "energy_kwh", "hours"),
    [
        (time(8), time(8, 15), 3.0, ("1.5", "0.25")),
        (time(22), time(0), 5.0, ("2.5", "2.0")),
        (time(8), time(8, 15), 0.5, None),
        (time(22), time(2), 8.0, None),
        (time(6), time(6), 48.0, None),
    ],
)
def test_a_daily_load_that_its_window_is_too_short_for_is_told(
    demo, earliest, latest, energy_kwh, hours
):
    load = demo.filter(pl.col("device_type") == "flexible_load")["device_id"][0]
    devices = with_value(
        demo,
        load,
        window_start=earliest,
        window_end=latest,
        energy_capacity_kwh=energy_kwh,
        max_draw_kw=2.0,
    )
    told = unlikely(devices)
    if hours is None:
        assert told.is_empty()
    else:
        needed, given = hours
        assert told.drop("remedy").rows() == [
            (
                load,
                "energy_kwh",
                energy_kwh,
                f"takes {needed} h at its power, and its window has {given} h",
            )
        ]
        assert "widen its window" in told["remedy"][0]


@pytest.mark.parametrize("way", ["import", "export"])
def test_a_failsafe_above_the_connections_own_limit_is_told_by_its_site(demo, way):
    at_alba = pl.when(pl.col("site_id") == "alba")
    limit = pl.col(f"site_{way}_limit_kw")
    told = unlikely(demo.with_columns(at_alba.then(limit + 1).alias(f"site_failsafe_{way}_kw")))
    assert told.select("name", "field").rows() == [("alba", f"failsafe_{way}_kw")]
    assert f"is above {way}_limit_kw" in told["reason"][0]
    assert unlikely(
        demo.with_columns(at_alba.then(limit).alias(f"site_failsafe_{way}_kw"))
    ).is_empty()


def test_a_two_way_charger_over_ocpp_is_told(demo):
    charger = pl.col("device_id") == "alba-charger"
    told = unlikely(
        with_value(demo, "alba-charger", max_inject_kw=7.0).with_columns(
            protocol=pl.when(charger).then(pl.lit("ocpp")).otherwise(pl.col("protocol").cast(str))
        )
    )
    assert told.drop("remedy").rows() == [
        (
            "alba-charger",
            "max_discharge_kw",
            7.0,
            "can't be commanded: OCPP 1.6 knows no discharging",
        )
    ]
