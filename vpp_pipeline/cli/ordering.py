"""What the commands that give an order share: the plant, the scope, the time, the order itself.

Belongs here: from an operator's words to an `Order` in the book. Does not: any command.
"""

from __future__ import annotations

import getpass
import math
import os
import re
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import click
from pydantic import ValidationError

from vpp_pipeline.cli.home import settings_at
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.dispatch.orders import Kind, Order, scopes
from vpp_pipeline.fleet.registry import RegistryError
from vpp_pipeline.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import polars as pl

Command = TypeVar("Command", bound="Callable[..., Any]")

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_NAMED_AT_MOST = 12
_ALIKE = 0.7  # of difflib's ratio: a letter or two are wrong


def _this_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return f"uid {os.getuid()}"


who_option = click.option("--who", default=_this_user, help="Who orders it; else this user.")
why_option = click.option("--why", required=True, help="The reason, for those who ask later.")


def span_of(text: str) -> timedelta:
    """Return a length of time such as 90m, 2h, 1h30m or 1d. Raises BadParameter."""
    match = _SPAN.fullmatch(text)
    if match is None or not any(map(int, match.groups("0"))):
        raise click.BadParameter(f"{text!r} is no length of time: write one such as 90m or 1h30m")
    days, hours, minutes, seconds = map(int, match.groups("0"))
    try:
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError as error:
        raise click.BadParameter(f"{text!r} is longer than any calendar") from error


def moment_of(text: str) -> datetime:
    """Return a time with its zone. Raises BadParameter."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time: write one such as 2026-01-31T18:00+01:00"
        ) from error
    if moment.tzinfo is None:
        whole = moment.isoformat(timespec="minutes")
        raise click.BadParameter(
            f"{text!r} has no time zone: add one, such as {whole}+02:00, or Z for UTC: {whole}Z"
        )
    try:
        moment.astimezone(UTC)
    except OverflowError as error:
        raise click.BadParameter(f"{text!r} is in no year from 1 to 9999 of UTC") from error
    return moment


def finite_kw(
    _context: click.Context, _parameter: click.Parameter, power_kw: float | None
) -> float | None:
    """Return a power as it was given. Raises BadParameter for one that is no number."""
    if power_kw is not None and not math.isfinite(power_kw):
        raise click.BadParameter(f"{power_kw:g} is no power: write kW as a number, such as 4.2")
    return power_kw


def until_options(command: Command) -> Command:
    """Add `--until` and `--for`, of which `end_of` takes one."""
    by_span = click.option(
        "--for", "span", metavar="SPAN", type=span_of, help="How long, such as 90m or 2h."
    )
    by_time = click.option(
        "--until", metavar="TIME", type=moment_of, help="Such as 2026-01-31T18:00+01:00."
    )
    return by_time(by_span(command))


def end_of(now: datetime, until: datetime | None, span: timedelta | None) -> datetime:
    """Return when the order ends. Raises UsageError without exactly one of the two."""
    if (until is None) == (span is None):
        raise click.UsageError("name the order's end with --until TIME or --for SPAN, one of them")
    try:
        end = until if until is not None else now + (span or timedelta())
    except OverflowError as error:
        raise click.UsageError("--for leads beyond the year 9999: write less") from error
    if end <= now:
        raise click.UsageError(
            f"--until {end.isoformat()} is over: the plant's clock shows {now.isoformat()}"
        )
    return end


def plant_at(home: Path | None) -> Runtime:
    """Return the runtime of the plant. Raises ClickException where there is none."""
    settings = settings_at(home)
    if not settings.home.is_dir():
        raise click.ClickException(
            f"there is no plant at {settings.home}: name its home with --home or VPP_HOME"
        )
    try:
        return Runtime.of(settings)
    except (ValueError, KeyError) as error:
        raise click.ClickException(f"the plant's settings can't be read: {error}") from error


def registered(runtime: Runtime) -> pl.DataFrame:
    """Return the fleet as the registry has it, or as it was last registered if that can't be read.

    Raises ClickException where it never was.
    """
    try:
        return runtime.registered_devices()
    except RegistryError as error:
        told = (
            f"the registry {runtime.settings.fleet_file} can't be read; "
            f"mend it or name another with VPP_FLEET:\n{error}"
        )
        remembered = runtime.remembered_devices()
        if remembered is None:
            raise click.ClickException(told) from error
        click.echo(f"{told}\nthis goes by the fleet as it was last registered", err=True)
        return remembered


def named_scope(name: str, devices: pl.DataFrame, kinds: Sequence[str]) -> str:
    """Return the scope that `name` means: itself, or the one of its `kinds` so called.

    `depot` means `site:depot` if nothing else is called depot. Raises ClickException, which names
    the scopes most alike first, then those of the first of `kinds`.
    """
    known = set(scopes(devices)["scope"])
    meant = [name] if name in known else [f"{kind}:{name}" for kind in kinds]
    found = [scope for scope in meant if scope in known and scope.split(":")[0] in kinds]
    if len(found) == 1:
        return found[0]
    if found:
        raise click.ClickException(f"{name!r} means {' and '.join(found)}: write which")
    others = [scope for kind in kinds for scope in sorted(known) if scope.split(":")[0] == kind]
    called = {scope: scope if ":" in name else scope.split(":", 1)[-1] for scope in others}
    alike = get_close_matches(name, set(called.values()), _NAMED_AT_MOST, _ALIKE)
    nearest = [scope for near in alike for scope in others if called[scope] == near]
    told = list(dict.fromkeys(nearest + others))
    more = " …" if len(told) > _NAMED_AT_MOST else ""
    raise click.ClickException(
        f"{name!r} is not in the registry: name one of {', '.join(told[:_NAMED_AT_MOST])}{more}"
    )


def members(devices: pl.DataFrame, scope: str) -> pl.DataFrame:
    """Return the devices in a scope."""
    inside = scopes(devices).filter(scope=scope)
    return devices.join(inside, on="device_id", how="semi", maintain_order="left")


def read_book(runtime: Runtime) -> list[Order]:
    """Return the orders given so far. Raises ClickException where the book is damaged."""
    try:
        return OrderBook(runtime.settings.order_dir).read()
    except OrderBookDamaged as error:
        raise click.ClickException(f"everything counts as stopped: {error}") from error


def ordered(runtime: Runtime, kind: Kind, scope: str, **fields: Any) -> Order:
    """Return an order, not yet given. Raises ClickException where it can't be one."""
    try:
        return Order(
            order_id=f"{kind.replace('_', '-')}-{uuid4().hex[:8]}",
            kind=kind,
            scope=scope,
            given_at=runtime.clock.now(),
            **fields,
        )
    except ValidationError as error:
        raise not_an_order(error) from error


def not_an_order(error: ValidationError) -> click.ClickException:
    """Return what to tell of an order that can't be one."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "the order"
    return click.ClickException(f"{field}: {first['msg']}")


def give(runtime: Runtime, *orders: Order) -> None:
    """Put orders in the book; tell where it is damaged, for then they move nothing.

    Raises ClickException.
    """
    book = OrderBook(runtime.settings.order_dir)
    try:
        book.give(*orders)
    except (OSError, OrderBookDamaged) as error:
        raise click.ClickException(
            f"the order was NOT given, {runtime.settings.order_dir} can't be written ({error}): "
            "give the disk room or this user the right to write there"
        ) from error
    try:
        book.read()
    except OrderBookDamaged as error:
        click.echo(f"everything counts as stopped all the same: {error}", err=True)
