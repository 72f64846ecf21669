"""Ending an order from the Dagster UI.

Belongs here: the job. Does not: what a name means (`dispatch.cancelling`), what follows for the
devices (the sensor `due_recheck` brings them back to their plan).
"""

import dagster as dg
from pydantic import Field, ValidationError

from vpp_pipeline.dispatch.cancelling import NothingToCancel, cancellation, in_words, named
from vpp_pipeline.dispatch.order_book import OrderBook, OrderBookDamaged
from vpp_pipeline.runtime import Runtime


class CancelConfig(dg.Config):
    """Which limit, override or group's target ends, as the asset `orders` names it, and why."""

    order: str
    who: str = Field(default="the Dagster UI", min_length=1)
    why: str = Field(default="asked for in the Dagster UI", min_length=1)


@dg.op
def end_order(
    context: dg.OpExecutionContext, config: CancelConfig, runtime: dg.ResourceParam[Runtime]
) -> None:
    """End a limit, an override or a group's target before its time."""
    book, now = OrderBook(runtime.settings.order_dir), runtime.clock.now()
    try:
        ended = named(book.read(), config.order, now)
        book.give(*(cancellation(order, config.who, config.why, now) for order in ended))
    except (NothingToCancel, OrderBookDamaged, ValidationError, OSError) as error:
        raise dg.Failure(f"nothing was cancelled: {error}", allow_retries=False) from error
    context.log.info("cancelled: %s", in_words(ended, config.order))


@dg.job(description="End a limit, an override or a group's target, by its name in `orders`.")
def cancel_order() -> None:
    """Launch it with `order` and `why` in the launchpad."""
    end_order()
