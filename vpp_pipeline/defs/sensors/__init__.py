"""What makes runs happen: gate closures, published prices, changes of the picture, boundaries.

Belongs here: schedules and sensors, each a thin question to a pure rule. Does not: the rules
(`timetable`, `dispatch.due`, `dispatch.deviation`), the assets.
"""

from vpp_pipeline.defs.sensors import days, dispatch, inputs, plans

SCHEDULES = [plans.before_gate_closure]
SENSORS = [
    inputs.changed_registry,
    plans.unplanned_day,
    inputs.published_prices,
    inputs.dropped_price_files,
    inputs.landed_telemetry,
    dispatch.due_dispatch,
    dispatch.changed_orders,
    dispatch.due_recheck,
    dispatch.finished_interval,
    plans.changed_picture,
    days.finished_day,
    days.settled_day,
]
