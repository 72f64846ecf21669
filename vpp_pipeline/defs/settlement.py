"""Settlement in Dagster: what was delivered, what it was worth, and the day's report.

Belongs here: the assets after the delivery day. Does not: any figure (`settlement`), the page
(`reporting`).
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import polars as pl

from vpp_pipeline import delivery_day as market_day
from vpp_pipeline.defs.dispatch import dispatch_ledger
from vpp_pipeline.defs.metadata import owners, picture, table
from vpp_pipeline.defs.partitions import delivery_day, delivery_days
from vpp_pipeline.defs.plant import telemetry
from vpp_pipeline.forecasting.schemas import ForecastErrors
from vpp_pipeline.forecasting.skill import errors
from vpp_pipeline.reporting import html, pictures
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import MARKET, MARKET_TZ
