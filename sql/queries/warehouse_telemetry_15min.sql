-- One row a device and quarter-hour in [$start, $end_): the readings known at $as_of, in time order.
-- Counted in whole quarter-hours since 1970: calendar arithmetic on time zones is slow.
WITH known AS (
    SELECT
        *,
        epoch_us(measured_at) // 900_000_000 AS quarter,
        lead(measured_at) OVER (
            PARTITION BY device_id, epoch_us(measured_at) // 900_000_000
            ORDER BY measured_at, known_at, telemetry.rowid
        ) AS next_at
    FROM telemetry
    WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
),
weighted AS (
    SELECT
        *,
        -- a reading counts until the next one or the interval's end
        coalesce(epoch_us(next_at), (quarter + 1) * 900_000_000) - epoch_us(measured_at)
            AS weight_us
    FROM known
    -- a correction follows what it corrects at the same instant: the newest known counts
    WHERE next_at IS DISTINCT FROM measured_at
)
SELECT
    device_id,
    make_timestamptz(quarter * 900_000_000) AS interval_start,
    sum(power_kw * weight_us) / sum(weight_us) FILTER (WHERE power_kw IS NOT NULL) AS power_kw,
    sum(available_power_kw * weight_us)
        / sum(weight_us) FILTER (WHERE available_power_kw IS NOT NULL) AS available_power_kw,
    arg_max(energy_kwh, measured_at) AS energy_kwh,
    arg_max(temperature_c, measured_at) AS temperature_c,
    arg_max(plugged_in, measured_at) AS plugged_in,
    -- null says something here (none in force, nothing owed), unless nobody was there to say it
    arg_max_null(setpoint_kw, measured_at) FILTER (WHERE status <> 'offline') AS setpoint_kw,
    arg_max_null(target_energy_kwh, measured_at)
        FILTER (WHERE status <> 'offline') AS target_energy_kwh,
    arg_max_null(deadline, measured_at) FILTER (WHERE status <> 'offline') AS deadline,
    arg_max(status, list_position(['ok', 'local', 'fault', 'offline'], status)) AS status,
    count(*) AS readings
FROM weighted
GROUP BY device_id, quarter
ORDER BY device_id, interval_start
