"""What is changed when a past day is planned as it was not.

Belongs here: a variant's fields, reading one, and what it makes of fleet, prices and settings.
Does not: planning with it (`replay`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import polars as pl
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from vpp_pipeline.fleet import yaml_document
from vpp_pipeline.fleet.frame import device_frame
from vpp_pipeline.fleet.model import Device
from vpp_pipeline.flexibility.states import most_plausible_kwh
from vpp_pipeline.optimization.settings import PlanSettings, Solver
from vpp_pipeline.settings import MARKET_TZ

if TYPE_CHECKING:
    from pathlib import Path

    import dataframely as dy

    from vpp_pipeline.fleet.frame import DeviceFrame
    from vpp_pipeline.fleet.model import Fleet

_DEVICE: TypeAdapter[Device] = TypeAdapter(Device)
Target = Literal["load", "generation", "temperature", "price"]
_MEASURED_AS_THEY_ARE = ("load", "pv", "wind")
_HH_MM = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
UNHURRIED_S = 600.0
"""A replay's plan has ten times the time of one that is waited for: no solver is cut short."""


class VariantError(ValueError):
    """A variant that can't be planned; the text names the field and the remedy."""


def _market_time(given: object) -> time:
    """Return a time of day; a number is one that lost its quotes, read in base 60."""
    if isinstance(given, time) and given.tzinfo is None:
        return given
    if isinstance(given, str) and _HH_MM.fullmatch(given):
        return time.fromisoformat(given)
    raise PydanticCustomError(
        "market_time",
        'is no market time: quote the times and write HH:MM without a zone, such as "17:00"',
    )


MarketTime = Annotated[time, BeforeValidator(_market_time)]


class _Changes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PlanChanges(_Changes):
    """Of `PlanSettings`; what is left out stays."""

    solvers: tuple[Solver, ...] | None = Field(default=None, min_length=1)
    gap_tolerance: float | None = Field(default=None, gt=0, lt=1)
    stored_energy_eur_per_mwh: float | None = None
    fairness_eur_per_kwh: float | None = Field(default=None, ge=0)


class Variant(_Changes):
    """What is otherwise than it was; nothing of it is a replay of what was."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] = "as-it-was"
    devices: dict[str, dict[str, Any]] = {}
    """A device's fields in the registry's words, such as {energy_capacity_kwh: 20}."""
    tariff_eur_per_mwh: dict[MarketTime, float] = {}
    """In place of the market's prices: from each market time ("17:00") on, to the next one."""
    imbalance_spread_eur_per_mwh: float | None = Field(default=None, ge=0)
    """In place of the plant's: of what is off the position, in a plan after gate closure and in
    every bill."""
    plan: PlanChanges = PlanChanges()
    forecasts: dict[Target, str] = {}
    """Which model forecasts, by target (`candidates.CANDIDATES`)."""

    @property
    def settings(self) -> PlanSettings:
        """How it is planned."""
        return replace(
            PlanSettings(time_limit_s=UNHURRIED_S), **self.plan.model_dump(exclude_none=True)
        )

    def fleet(self, known: Fleet) -> dy.DataFrame[DeviceFrame]:
        """Return the devices of a fleet with the variant's fields, without addresses.

        Raises `VariantError` naming the device and the field.
        """
        left = set(self.devices)
        sites = []
        for site in known.sites:
            left -= {device.device_id for device in site.devices}
            patched = tuple(self._device(device) for device in site.devices)
            sites.append(site.model_copy(update={"devices": patched}))
        if left:
            raise VariantError(
                f"variant {self.name}: the fleet had no device {min(left)!r}: "
                "name one of its registry"
            )
        return device_frame(known.model_copy(update={"sites": tuple(sites)}))

    def prices(self, market: pl.DataFrame) -> pl.DataFrame:
        """Return (interval_start, price_eur_per_mwh, …) with the tariff's prices, if there is one."""
        if not self.tariff_eur_per_mwh:
            return market
        steps = sorted(self.tariff_eur_per_mwh.items())
        wall = pl.col("interval_start").dt.convert_time_zone(MARKET_TZ).dt.time()
        price: pl.Expr = pl.lit(
            steps[-1][1]
        )  # before the first time, the last one of the day before
        for start, value in steps:
            price = pl.when(wall >= start).then(pl.lit(value)).otherwise(price)
        return market.with_columns(price_eur_per_mwh=price)

    def _device(self, device: Device) -> Device:
        changes = self.devices.get(device.device_id)
        if changes is None:
            return device
        where = f"variant {self.name}: {device.device_id}"
        if device.type in _MEASURED_AS_THEY_ARE:
            raise VariantError(
                f"{where} is of type {device.type}, and what another one would have measured is "
                "not known: change batteries, chargers, heat pumps, flexible loads or CHPs"
            )
        fixed = {"device_id", "type", "connection"} & set(changes)
        if fixed:
            raise VariantError(f"{where}.{min(fixed)} is what the device is: leave it out")
        try:
            return _DEVICE.validate_python(device.model_dump() | changes)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][1:])
            raise VariantError(
                f"{where}.{field} is {first['input']!r}: {first['msg']}: write a value that the "
                "registry would take"
            ) from error


AS_IT_WAS = Variant()


def within_capacity(
    readings: pl.DataFrame, fleet: pl.DataFrame, devices: pl.DataFrame
) -> pl.DataFrame:
    """Return readings of the real `fleet` as those of a variant's `devices`.

    A battery that is made smaller than it was is full where the real one held more. What is too
    much for the real one stays as it came.
    """
    real, own = (
        frame.filter(pl.col("device_type").cast(pl.String) == "battery").select(
            "device_id", capacity_kwh="energy_capacity_kwh"
        )
        for frame in (fleet, devices)
    )
    smaller = real.join(own, on="device_id", suffix="_own").filter(
        pl.col("capacity_kwh_own") < pl.col("capacity_kwh")
    )
    held = pl.col("energy_kwh")
    overfull = (held > pl.col("capacity_kwh_own")) & (held <= most_plausible_kwh("capacity_kwh"))
    return (
        readings.join(smaller, on="device_id", how="left", maintain_order="left")
        .with_columns(
            energy_kwh=pl.when(overfull.fill_null(value=False))
            .then("capacity_kwh_own")
            .otherwise("energy_kwh")
        )
        .drop("capacity_kwh", "capacity_kwh_own")
    )


def read_variant(path: Path) -> Variant:
    """Return the variant of a YAML file; raises `VariantError` naming file, field and remedy."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VariantError(
            f"{path} can't be read ({error.strerror}): name a file that exists and is readable"
        ) from error
    _, data, problems = yaml_document.read(content, str(path))
    if problems:
        raise VariantError("\n".join(map(str, problems)))
    return variant_of(data, str(path))


def variant_of(content: object, where: str) -> Variant:
    """Return the variant that a mapping tells; raises `VariantError` naming field and remedy."""
    try:
        variant = Variant.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the whole"
        raise VariantError(
            f"{where}: {field} is {first['input']!r}: {first['msg']}: a variant has "
            f"{', '.join(Variant.model_fields)}"
        ) from error
    if variant.name == AS_IT_WAS.name:
        raise VariantError(f"{where}: name is {variant.name!r}: give the variant a name of its own")
    return variant
