"""What people order beside the plan, and what of it stands for each device now.

Belongs here: the order and the ladder of authorities (kill switch > grid operator > operator
override; local control shows in telemetry, see `guard`). Does not: where orders are kept
(`order_book`), what they do to a set-point (`guard`), releasing devices.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

import polars as pl
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_UTC = pl.Datetime("us", "UTC")
_MAX_KW = 1e6
_Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
WORDS_AT_MOST = 200  # characters of an order's name, giver or reason
_Text = Annotated[str, Field(min_length=1, max_length=WORDS_AT_MOST)]

Kind = Literal["stop", "resume", "grid_limit", "override", "cancel"]

_FIELDS: dict[Kind, tuple[str, ...]] = {
    "stop": (),
    "resume": (),
    "grid_limit": ("min_kw", "max_kw"),
    "override": ("power_kw", "target"),
    "cancel": ("cancels",),
}
_REQUIRED = ("power_kw", "cancels")
_TIMED: tuple[Kind, ...] = ("grid_limit", "override")


class Order(BaseModel):
    """One order. A stop, a resume and a cancellation act at once and have no end.

    - `stop` holds for its scope until a `resume` of the same scope is given after it.
    - `grid_limit` bounds the net power of each site in scope (of the device, for a device's
      scope) from `min_kw` <= 0 to `max_kw` >= 0; null is no bound on that side.
    - `override` replaces the plan's set-point of each device in scope (PV and wind: their cap).
      Those that are shares of a group's `target` bear its name.
    - `cancel` ends the grid limit or override whose `order_id` it `cancels`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    order_id: _Text
    kind: Kind
    scope: Annotated[
        str, Field(pattern=r"^(fleet|(site|group|tag|device):[a-z0-9][a-z0-9_-]{0,62})$")
    ]
    who: _Text
    why: _Text
    given_at: _Moment
    valid_from: _Moment = Field(default_factory=lambda data: data["given_at"])
    valid_until: _Moment | None = None
    min_kw: Annotated[float, Field(ge=-_MAX_KW, le=0)] | None = None
    max_kw: Annotated[float, Field(ge=0, le=_MAX_KW)] | None = None
    power_kw: Annotated[float, Field(ge=-_MAX_KW, le=_MAX_KW)] | None = None
    target: _Text | None = None
    cancels: _Text | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        own = _FIELDS[self.kind]
        for field in ("min_kw", "max_kw", "power_kw", "target", "cancels"):
            value = getattr(self, field)
            if field not in own and value is not None:
                raise ValueError(f"{field} is {value}: leave it out of a {self.kind}")
            if field in own and field in _REQUIRED and value is None:
                raise ValueError(f"{field} is missing: a {self.kind} needs it")
        if self.kind not in _TIMED:
            if self.valid_until is not None or self.valid_from != self.given_at:
                raise ValueError(
                    f"a {self.kind} acts at once and without end: leave out valid_from and"
                    " valid_until"
                )
        elif self.valid_until is None or self.valid_until <= self.valid_from:
            raise ValueError(
                f"valid_until is {self.valid_until}: a {self.kind} needs an end after its"
                f" valid_from, {self.valid_from}"
            )
        return self

    @property
    def words(self) -> str:
        """The order as a reason names it."""
        name = {"stop": KILL_SWITCH, "grid_limit": "grid limit"}.get(self.kind, self.kind)
        until = f" until {self.valid_until:%Y-%m-%d %H:%M} UTC" if self.valid_until else ""
        return f"{name} {self.order_id}{until} by {self.who} ({self.why})"


KILL_SWITCH = "kill switch"
GRID_OPERATOR = "grid operator"
FAILSAFE = "grid failsafe"
OVERRIDE = "override"
PLAN = "plan"
"""The authority of a command that no order has bound."""

STANDING = pl.Schema(
    {
        "device_id": pl.String,
        "stopped": pl.Boolean,
        "override_kw": pl.Float64,
        "low_kw": pl.Float64,
        "high_kw": pl.Float64,
        "site_low_kw": pl.Float64,
        "site_high_kw": pl.Float64,
        "authority": pl.String,
        "order_id": pl.String,
        **{
            f"{of}_{told}": pl.String
            for of in ("stop", "override", "low", "high", "site_low", "site_high")
            for told in ("id", "words")
        },
    }
)
"""What stands for each device: powers in kW, null where nothing does.

`low_kw` and `high_kw` bound the device, `site_low_kw` and `site_high_kw` the net power of its
site; each `…_words` names what its column comes from, and `…_id` the order. `authority` and `order_id` name the
highest that has something to say, of the four above.
"""

_FAILSAFE_WORDS = f"{FAILSAFE}: nothing valid is known of the grid operator's limit"


def standing(orders: Sequence[Order], devices: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return what stands for each of `devices` (a `DeviceFrame`) at `now`, columns `STANDING`.

    `orders` stand in the order in which they were given: of stop and resume of one scope the last
    counts, and of several overrides of a device the last given. Grid limits in force all hold at
    once. A site with a failsafe for a direction is under it while no grid limit in force bounds
    that direction; one without any bound ends both (EEBUS LPC and LPP, a use case a direction: a
    lost operator means the failsafe until a limit follows).
    """
    given = _given(orders)
    in_force = given.filter(
        pl.col("valid_from") <= now,
        pl.col("valid_until") > now,
        ~pl.col("order_id").is_in(given["cancels"].drop_nulls().to_list()),
    )
    limits = in_force.filter(pl.col("kind") == "grid_limit")
    of_device = pl.col("scope").str.starts_with("device:")
    members = scopes(devices)
    frame = (
        devices.select("device_id", "site_id", "site_failsafe_import_kw", "site_failsafe_export_kw")
        .join(_stops(given, members), on="device_id", how="left", maintain_order="left")
        .join(_overrides(in_force, members), on="device_id", how="left", maintain_order="left")
        .join(
            _tightest(limits.filter(of_device), members, "device_id", ""),
            on="device_id",
            how="left",
            maintain_order="left",
        )
        .join(
            _tightest(limits.filter(~of_device), members, "site_id", "site_"),
            on="site_id",
            how="left",
            maintain_order="left",
        )
    )
    return _resolved(frame)


def standing_unknown(devices: pl.DataFrame, reason: str) -> pl.DataFrame:
    """Return what stands while the orders can't be read: all stopped, sites at their failsafe."""
    unread = devices.select(
        "device_id",
        "site_failsafe_import_kw",
        "site_failsafe_export_kw",
        stop_words=pl.lit(f"{KILL_SWITCH}: the order book can't be read ({reason})"),
    )
    missing = {name: kind for name, kind in _JOINED.items() if name not in unread.columns}
    return _resolved(
        unread.with_columns(pl.lit(None, kind).alias(n) for n, kind in missing.items())
    )


def scopes(devices: pl.DataFrame) -> pl.DataFrame:
    """Return a row a device and `scope` it is in, with its `site_id`."""
    keys = ["device_id", "site_id"]
    lists = [
        devices.select(*keys, name=pl.col(column))
        .explode("name", empty_as_null=True)
        .drop_nulls("name")
        .select(*keys, scope=pl.format(f"{kind}:{{}}", "name"))
        for column, kind in (("groups", "group"), ("tags", "tag"))
    ]
    return pl.concat(
        [
            devices.select(*keys, scope=pl.lit("fleet")),
            devices.select(*keys, scope=pl.format("site:{}", "site_id")),
            devices.select(*keys, scope=pl.format("device:{}", "device_id")),
            *lists,
        ]
    )


_GIVEN: dict[str, pl.DataType | type[pl.DataType]] = {
    "order_id": pl.String,
    "kind": pl.String,
    "scope": pl.String,
    "valid_from": _UTC,
    "valid_until": _UTC,
    "min_kw": pl.Float64,
    "max_kw": pl.Float64,
    "power_kw": pl.Float64,
    "cancels": pl.String,
    "words": pl.String,
}

_JOINED: dict[str, pl.DataType | type[pl.DataType]] = {
    "stop_words": pl.String,
    "stop_id": pl.String,
    "override_kw": pl.Float64,
    "override_words": pl.String,
    "override_id": pl.String,
    **{
        f"{of}{name}": kind
        for of in ("", "site_")
        for name, kind in {
            "low_kw": pl.Float64,
            "high_kw": pl.Float64,
            "low_id": pl.String,
            "high_id": pl.String,
            "low_words": pl.String,
            "high_words": pl.String,
            "limit_id": pl.String,
            "lifted": pl.Boolean,
        }.items()
    },
}


def _given(orders: Sequence[Order]) -> pl.DataFrame:
    rows = [{name: getattr(order, name) for name in _GIVEN} for order in orders]
    return pl.DataFrame(rows, schema=_GIVEN)


def _stops(given: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    return (
        given.filter(pl.col("kind").is_in(["stop", "resume"]))
        .unique("scope", keep="last", maintain_order=True)
        .filter(pl.col("kind") == "stop")
        .join(members, on="scope", maintain_order="left")
        .group_by("device_id")
        .agg(stop_words=pl.col("words").last(), stop_id=pl.col("order_id").last())
    )


def _overrides(in_force: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    return (
        in_force.filter(pl.col("kind") == "override")
        .join(members, on="scope", maintain_order="left")
        .group_by("device_id")
        .agg(
            override_kw=pl.col("power_kw").last(),
            override_words=pl.col("words").last(),
            override_id=pl.col("order_id").last(),
        )
    )


def _tightest(limits: pl.DataFrame, members: pl.DataFrame, of: str, prefix: str) -> pl.DataFrame:
    """Return the tightest bounds of each device or site, and whose they are."""
    limits = limits.join(members, on="scope", maintain_order="left")
    low = limits.drop_nulls("min_kw").sort("min_kw", descending=True, maintain_order=True)
    high = limits.drop_nulls("max_kw").sort("max_kw", maintain_order=True)
    return (
        limits.group_by(of, maintain_order=True)
        .agg(
            pl.col("order_id").last().alias(f"{prefix}limit_id"),
            pl.all_horizontal(pl.col("min_kw", "max_kw").is_null()).any().alias(f"{prefix}lifted"),
        )
        .join(_first(low, of, "min_kw", f"{prefix}low"), on=of, how="left")
        .join(_first(high, of, "max_kw", f"{prefix}high"), on=of, how="left")
    )


def _first(limits: pl.DataFrame, of: str, bound: str, name: str) -> pl.DataFrame:
    return limits.unique(of, keep="first", maintain_order=True).select(
        of,
        pl.col(bound).alias(f"{name}_kw"),
        pl.col("order_id").alias(f"{name}_id"),
        pl.col("words").alias(f"{name}_words"),
    )


def _resolved(frame: pl.DataFrame) -> pl.DataFrame:
    """Set in the failsafe where nothing was heard, and name the highest authority."""
    unlifted = ~pl.col("site_lifted").fill_null(value=False)
    low_kw = pl.coalesce("site_low_kw", pl.when(unlifted).then(-pl.col("site_failsafe_import_kw")))
    high_kw = pl.coalesce("site_high_kw", pl.when(unlifted).then("site_failsafe_export_kw"))
    failsafe = pl.col("site_limit_id").is_null() & pl.any_horizontal(
        pl.col("site_failsafe_import_kw", "site_failsafe_export_kw").is_not_null()
    )
    stopped = pl.col("stop_words").is_not_null()
    limit_id = pl.coalesce("limit_id", "site_limit_id")
    return frame.with_columns(
        stopped=stopped,
        site_low_kw=low_kw,
        site_high_kw=high_kw,
        site_low_words=pl.when(low_kw.is_not_null()).then(
            pl.col("site_low_words").fill_null(_FAILSAFE_WORDS)
        ),
        site_high_words=pl.when(high_kw.is_not_null()).then(
            pl.col("site_high_words").fill_null(_FAILSAFE_WORDS)
        ),
        authority=pl.when(stopped)
        .then(pl.lit(KILL_SWITCH))
        .when(failsafe & limit_id.is_null())
        .then(pl.lit(FAILSAFE))
        .when(limit_id.is_not_null())
        .then(pl.lit(GRID_OPERATOR))
        .when(pl.col("override_kw").is_not_null())
        .then(pl.lit(OVERRIDE)),
        order_id=pl.when(stopped)
        .then("stop_id")
        .otherwise(
            pl.coalesce(limit_id, pl.when(~failsafe).then("override_id")),
        ),
    ).select(STANDING.names())
