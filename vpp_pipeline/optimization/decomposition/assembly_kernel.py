"""A block's variables, rows and coefficients, compiled.

Belongs here: what a store, a source and a connection add to their block's programme, in the order
of time, so that its rows are banded. Does not: what it is written on (`sheets`), all blocks'
programmes (`assembly`), solving them.

Where an energy costs in part (a debt, discomfort), it is cut into consecutive pieces, each with its
own cost.

Every kernel takes its arrays out of their tuples before its loops: inside, for each variable, that
took most of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from vpp_pipeline.delivery_day import STEP_H

if TYPE_CHECKING:
    from vpp_pipeline.optimization.problem import Floats, Places

_H = STEP_H
_FIXED = 1e-9  # bounds closer than this leave no choice
_PIECES = 3  # short of the wish, between, above comfort
_LOOSENED_KWH = 1e-7  # an energy that can't be changed may lie on its bound
_NOWHERE = 1 << 40
_NO_LINK = (-1, 0.0)
_kernel = njit(cache=True, nogil=True, error_model="numpy")
# Called for every variable with all arrays: a call would cost more than what it does.
_inlined = njit(cache=True, nogil=True, error_model="numpy", inline="always")


class _Rows(NamedTuple):
    """A block's rows, counted from its first; -1 where there is none."""

    law: Places  # (stores, T)
    head: Places  # (stores, T) the first of four headrooms
    ramp: Places  # (sources, T)
    export: Places  # (T,)
    imports: Places  # (T,)
    most_kw: Floats  # (T,) what the block can inject
    least_kw: Floats
    reserved: bool  # whether a store of it may hold reserve


@_inlined
def _take(rows, values, z, row, value):
    """Write an entry at `z`, unless there is no such row or it is 0; return where the next goes."""
    if row >= 0 and value != 0.0:
        rows[z], values[z] = row, value
        return z + 1
    return z


@_inlined
def _add(onto, at, end, bounds, costs, link, target):
    """Add the variable whose entries end at `end`; return the new counts of variables and entries.

    One without a choice goes to the right-hand sides instead. Each has two entries at least, of
    which the second's row is not before the first's: those missing are 0.
    """
    number, place, rows, values, right, fixed_link, fixed_result = onto
    v, z = at
    low, high = bounds
    if high - low < _FIXED:
        value = 0.5 * (low + high)
        for k in range(z, end):
            right[rows[k]] -= values[k] * value
        if link[0] >= 0:
            fixed_link[link[0]] += link[1] * value
        if target >= 0:
            fixed_result[target] += value
        return v, z
    while end < z + 2:
        rows[end], values[end] = rows[z] if end > z else 0, 0.0
        end += 1
    if rows[z] > rows[z + 1]:
        rows[z], rows[z + 1] = rows[z + 1], rows[z]
        values[z], values[z + 1] = values[z + 1], values[z]
    number[v, 0], number[v, 1] = low, high
    number[v, 2], number[v, 3] = costs
    number[v, 4] = link[1]
    place[v, 0], place[v, 1], place[v, 2] = link[0], target, end
    return v + 1, end


@_inlined
def _add_slack(onto, at, row, value, most, cost):
    """Add a variable of one row, from 0 to its most."""
    end = _take(onto[2], onto[3], at[1], row, value)
    return _add(onto, at, end, (0.0, most), (cost, 0.0), _NO_LINK, -1)


@_inlined
def _onto(sheet, row0):
    """Return what variables are added to, of a block whose first row is `row0`."""
    return (
        sheet.number,
        sheet.place,
        sheet.entry_row,
        sheet.entry_value,
        sheet.right[row0:],
        sheet.fixed_link,
        sheet.fixed_result,
    )


@_kernel
def _rows_of(part, b):
    """Return a block's rows, none of them there yet, and what the block can inject."""
    steps = part.charge_max_kw.shape[1]
    s0, s1 = part.store_first[b], part.store_first[b + 1]
    g0, g1 = part.source_first[b], part.source_first[b + 1]
    most_kw, least_kw = part.base_kw[b].copy(), part.base_kw[b].copy()
    reserved = False
    for s in range(s0, s1):
        reserved = reserved or part.reserve[s]
        for t in range(steps):
            if part.present[s, t]:
                most_kw[t] += part.discharge_max_kw[s, t]
                least_kw[t] -= part.charge_max_kw[s, t]
    for g in range(g0, g1):
        for t in range(steps):
            most_kw[t] += part.source_max_kw[g, t]
            least_kw[t] += part.source_min_kw[g, t]
    return _Rows(
        np.full((s1 - s0, steps), -1, dtype=np.int64),
        np.full((s1 - s0, steps), -1, dtype=np.int64),
        np.full((g1 - g0, steps), -1, dtype=np.int64),
        np.full(steps, -1, dtype=np.int64),
        np.full(steps, -1, dtype=np.int64),
        most_kw,
        least_kw,
        reserved,
    )


@_kernel
def _add_rows(part, sheet, rows, b, row0, of):
    """Lay out a block's rows, those of one quarter-hour together; return their count."""
    steps = part.charge_max_kw.shape[1]
    s0, s1 = part.store_first[b], part.store_first[b + 1]
    g0, g1 = part.source_first[b], part.source_first[b + 1]
    present, starts, reserve = part.present[s0:s1], part.starts[s0:s1], part.reserve[s0:s1]
    charge_kw, discharge_kw = part.charge_max_kw[s0:s1], part.discharge_max_kw[s0:s1]
    floor_kwh, ceiling_kwh = part.floor_kwh[s0:s1], part.ceiling_kwh[s0:s1]
    initial_kwh, drift_kwh = part.initial_kwh[s0:s1], part.drift_kwh[s0:s1]
    retention, ramp_kw, base_kw = part.retention[s0:s1], part.source_ramp_kw[g0:g1], part.base_kw[b]
    export_kw, import_kw = part.export_limit_kw[b], part.import_limit_kw[b]
    law, head, ramp, export, imports = rows.law, rows.head, rows.ramp, rows.export, rows.imports
    most_kw, least_kw = rows.most_kw, rows.least_kw
    reserved, limited = rows.reserved, part.limited[b]
    right, target = sheet.right[row0:], sheet.row_target[row0:]
    r = 0
    for t in range(steps):
        for g in range(g1 - g0):
            if t > 0 and np.isfinite(ramp_kw[g]):
                ramp[g, t] = r
                right[r], target[r] = 0.0, of[1] + (g0 + g) * steps + t
                r += 1
        for s in range(s1 - s0):
            if not present[s, t]:
                continue
            law[s, t] = r
            started = t == 0 or starts[s, t] or not present[s, t - 1]
            before_kwh = retention[s] * initial_kwh[s, t] if started else 0.0
            place = (s0 + s) * steps + t
            right[r], target[r] = drift_kwh[s, t] + before_kwh, of[0] + place
            r += 1
            if reserve[s] and charge_kw[s, t] + discharge_kw[s, t] > _FIXED:
                head[s, t] = r
                right[r], right[r + 1] = discharge_kw[s, t], charge_kw[s, t]
                right[r + 2], right[r + 3] = floor_kwh[s, t], ceiling_kwh[s, t]
                for kind in range(4):
                    target[r + kind] = of[4 + kind] + place
                r += 4
        if not limited:
            continue
        may_export, may_import = most_kw[t] > export_kw, least_kw[t] < -import_kw
        # One row serves both limits, unless reserve is held up and down within them.
        if may_export or (may_import and not reserved):
            export[t] = r
            right[r], target[r] = export_kw - base_kw[t], of[2] + b * steps + t
            r += 1
        if may_import and reserved:
            imports[t] = r
            right[r], target[r] = import_kw + base_kw[t], of[3] + b * steps + t
            r += 1
    if r == 0 and g1 > g0:  # an empty row, for entries that are 0
        right[r], target[r] = 0.0, of[1] + g0 * steps
        r += 1
    return r


@_kernel
def _add_powers(part, onto, rows, at, s, nth, of):
    """Add a store's charging and discharging."""
    steps = part.charge_max_kw.shape[1]
    gain, loss = part.charge_efficiency[s] * _H, _H / part.discharge_efficiency[s]
    costs = (0.5 * _H * part.wear_eur_per_kwh[s], part.store_curvature[s] * _H)
    present, law, head = part.present[s], rows.law[nth], rows.head[nth]
    export, imports = rows.export, rows.imports
    charge_low, charge_high = part.charge_min_kw[s], part.charge_max_kw[s]
    discharge_low, discharge_high = part.discharge_min_kw[s], part.discharge_max_kw[s]
    entry_row, entry_value = onto[2], onto[3]
    charge, discharge = of[0] + s * steps, of[1] + s * steps
    for t in range(steps):
        if not present[t]:
            continue
        up = head[t]
        for way in range(2):
            sign = -1.0 if way == 0 else 1.0
            z = _take(entry_row, entry_value, at[1], law[t], -gain if way == 0 else loss)
            z = _take(entry_row, entry_value, z, export[t], sign)
            z = _take(entry_row, entry_value, z, imports[t], -sign)
            if up >= 0:
                z = _take(entry_row, entry_value, z, up, sign)
                z = _take(entry_row, entry_value, z, up + 1, -sign)
            low = charge_low[t] if way == 0 else discharge_low[t]
            high = charge_high[t] if way == 0 else discharge_high[t]
            target = (charge if way == 0 else discharge) + t
            at = _add(onto, at, z, (low, high), costs, (t, sign), target)
    return at


@_kernel
def _add_energies(part, onto, rows, at, s, nth, of):
    """Add a store's energies at the quarter-hours' ends, counted from its floor, in their pieces."""
    steps = part.charge_max_kw.shape[1]
    present, starts, law, head = part.present[s], part.starts[s], rows.law[nth], rows.head[nth]
    floor_kwh, ceiling_kwh = part.floor_kwh[s], part.ceiling_kwh[s]
    wished_kwh, comfort_kwh = part.wished_kwh[s], part.comfort_kwh[s]
    shortfall, excess = part.shortfall_eur_per_kwh[s], part.excess_eur_per_kwh[s]
    retention, end_value = part.retention[s], part.end_value_eur_per_kwh[s]
    entry_row, entry_value, right, fixed_result = onto[2], onto[3], onto[4], onto[6]
    for t in range(steps):
        if not present[t]:
            continue
        up, target = head[t], of[2] + s * steps + t
        low, high = floor_kwh[t] - _LOOSENED_KWH, ceiling_kwh[t] + _LOOSENED_KWH
        wished = min(max(wished_kwh[t], low), high)
        comfort = min(max(comfort_kwh[t], low), high)
        short, above = shortfall[t], excess[t]
        kept = end_value if t == steps - 1 else 0.0
        into_next = t + 1 < steps and present[t + 1] and not starts[t + 1]
        following = law[t + 1] if into_next else -1
        right[law[t]] -= low
        if following >= 0:
            right[following] += retention * low
        if up >= 0:
            right[up + 2] -= low
            right[up + 3] -= low
        fixed_result[target] += low
        first, second = min(wished, comfort), max(wished, comfort)
        between = above - short if comfort < wished else 0.0
        start = low
        for k in range(_PIECES):
            end = first if k == 0 else second if k == 1 else high
            slope = -short if k == 0 else between if k == 1 else above
            after = between if k == 0 else above
            if k < _PIECES - 1 and (after == slope or end - start < _FIXED):
                continue
            z = _take(entry_row, entry_value, at[1], law[t], 1.0)
            z = _take(entry_row, entry_value, z, following, -retention)
            if up >= 0:
                z = _take(entry_row, entry_value, z, up + 2, 1.0)
                z = _take(entry_row, entry_value, z, up + 3, 1.0)
            at = _add(onto, at, z, (0.0, end - start), (slope - kept, 0.0), _NO_LINK, target)
            start = end
    return at


@_kernel
def _add_reserves(part, onto, rows, at, s, nth, of):
    """Add what a store holds ready up and down, and the slacks of its headrooms."""
    steps = part.charge_max_kw.shape[1]
    bend = part.store_curvature[s] * _H * 1e-3
    up_kwh = -part.sustain_h / part.discharge_efficiency[s]
    down_kwh = part.sustain_h * part.charge_efficiency[s]
    head, export, imports = rows.head[nth], rows.export, rows.imports
    charge_kw, discharge_kw = part.charge_max_kw[s], part.discharge_max_kw[s]
    floor_kwh, ceiling_kwh = part.floor_kwh[s], part.ceiling_kwh[s]
    entry_row, entry_value = onto[2], onto[3]
    for t in range(steps):
        up = head[t]
        if up < 0:
            continue
        full_kw = charge_kw[t] + discharge_kw[t]
        room_kwh = ceiling_kwh[t] - floor_kwh[t] + _LOOSENED_KWH
        for way in range(2):
            kwh = up_kwh if way == 0 else down_kwh
            z = _take(entry_row, entry_value, at[1], up + way, 1.0)
            z = _take(entry_row, entry_value, z, up + 2 + way, kwh)
            z = _take(entry_row, entry_value, z, export[t] if way == 0 else imports[t], 1.0)
            link, target = ((1 + way) * steps + t, 1.0), of[4 + way] + s * steps + t
            at = _add(onto, at, z, (0.0, full_kw), (0.0, bend), link, target)
            at = _add_slack(onto, at, up + way, 1.0, full_kw, 0.0)
            at = _add_slack(onto, at, up + 2 + way, -1.0 if way == 0 else 1.0, room_kwh, 0.0)
    return at


@_kernel
def _add_outputs(part, onto, rows, at, g, nth, of):
    """Add a source's output, and how fast it changes where that is limited."""
    steps = part.source_max_kw.shape[1]
    bend, limit_kw = part.source_curvature[g] * _H, part.source_ramp_kw[g]
    least_kw, most_kw, cost = part.source_min_kw[g], part.source_max_kw[g], part.source_cost[g] * _H
    curtailable, ramp = part.curtailable[g], rows.ramp[nth]
    export, imports = rows.export, rows.imports
    entry_row, entry_value = onto[2], onto[3]
    for t in range(steps):
        linear = cost - bend * most_kw[t] if curtailable else cost
        z = _take(entry_row, entry_value, at[1], export[t], 1.0)
        z = _take(entry_row, entry_value, z, imports[t], -1.0)
        z = _take(entry_row, entry_value, z, ramp[t], 1.0)
        z = _take(entry_row, entry_value, z, ramp[t + 1] if t + 1 < steps else -1, -1.0)
        bounds, target = (least_kw[t], most_kw[t]), of[3] + g * steps + t
        at = _add(onto, at, z, bounds, (linear, bend), (t, 1.0), target)
        if ramp[t] >= 0:
            z = _take(entry_row, entry_value, at[1], ramp[t], -1.0)
            at = _add(onto, at, z, (-limit_kw, limit_kw), (0.0, 0.0), _NO_LINK, -1)
    return at


@_kernel
def _add_connection(part, onto, rows, at, b):
    """Add what the connection leaves, and what may go beyond it at a cost."""
    cost = part.overload_eur_per_kwh * _H
    export_kw, import_kw = part.export_limit_kw[b], part.import_limit_kw[b]
    over_kw, under_kw = part.export_overload_kw[b], part.import_overload_kw[b]
    export, imports, reserved = rows.export, rows.imports, rows.reserved
    most_kw, least_kw = rows.most_kw, rows.least_kw
    for t in range(len(export)):
        over, under = over_kw[t], under_kw[t]
        for way in range(2):
            row = export[t] if way == 0 else imports[t]
            if row < 0:
                continue
            if not reserved:
                slack = export_kw + import_kw
            elif way == 0:
                slack = export_kw + over - min(least_kw[t], 0.0)
            else:
                slack = import_kw + under + max(most_kw[t], 0.0)
            at = _add_slack(onto, at, row, 1.0, slack, 0.0)
            at = _add_slack(onto, at, row, -1.0, over if way == 0 else under, cost)
            if not reserved:
                at = _add_slack(onto, at, row, 1.0, under, cost)
    return at


@_kernel
def write_blocks(part, sheet, first, last, results, multipliers):
    """Write the blocks [first, last) on a sheet; places are those of all blocks' flat results and
    multipliers.
    """
    for b in range(first, last):
        v0, row0, z0, m0 = sheet.ends[b - first]
        s0, g0 = part.store_first[b], part.source_first[b]
        onto = _onto(sheet, row0)
        rows = _rows_of(part, b)
        count = _add_rows(part, sheet, rows, b, row0, multipliers)
        at = (v0, z0)
        for s in range(s0, part.store_first[b + 1]):
            at = _add_powers(part, onto, rows, at, s, s - s0, results)
            at = _add_energies(part, onto, rows, at, s, s - s0, results)
            at = _add_reserves(part, onto, rows, at, s, s - s0, results)
        for g in range(g0, part.source_first[b + 1]):
            at = _add_outputs(part, onto, rows, at, g, g - g0, results)
        at = _add_connection(part, onto, rows, at, b)
        sheet.width[b - first], met = _meet(sheet, v0, at[0], z0, m0, part.charge_max_kw.shape[1])
        sheet.ends[b + 1 - first] = at[0], row0 + count, at[1], met


@_inlined
def _spread(rows, values, first, last):
    """Return the first and the last of a variable's rows; (_NOWHERE, -1) where it has none."""
    low, high = _NOWHERE, -1
    for z in range(first, last):
        if values[z] != 0.0:
            low = min(low, rows[z])
            high = max(high, rows[z])
    return low, high


@_kernel
def _meet(sheet, first, last, begin, meetings, steps):
    """Write which shared rows a block's rows meet, and where, in time's order, from `meetings` on.

    Return the widest spread of rows that a variable, or a shared row, brings together, and where
    the meetings end. The block's variables are [first, last), whose entries begin at `begin`.
    """
    width = 1
    lowest = np.full(3 * steps, _NOWHERE, dtype=np.int64)
    highest = np.full(3 * steps, -1, dtype=np.int64)
    links, ends = sheet.place[first:last, 0], sheet.place[first:last, 2]
    rows, values = sheet.entry_row, sheet.entry_value
    for v in range(len(links)):
        low, high = _spread(rows, values, begin, ends[v])
        begin = ends[v]
        if high < 0:
            continue
        width = max(width, high - low)
        link = links[v]
        if link >= 0:
            lowest[link] = min(lowest[link], low)
            highest[link] = max(highest[link], high)
            width = max(width, highest[link] - lowest[link])
    meeting_link, meeting_row = sheet.meeting_link, sheet.meeting_row
    for t in range(steps):
        for link in range(t, 3 * steps, steps):
            if highest[link] >= 0:
                meeting_link[meetings], meeting_row[meetings] = link, lowest[link]
                meetings += 1
    return width, meetings
