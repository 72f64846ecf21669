-- One row a device and quarter-hour in [$start, $end_): the readings known at $as_of, in time order.
WITH known AS (
    SELECT * EXCLUDE known_at, time_bucket(INTERVAL 15 MINUTE, measured_at) AS interval_start
    FROM telemetry
    WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
    -- a correction stands beside what it corrects: the newest known counts
    QUALIFY row_number() OVER (
        PARTITION BY device_id, measured_at ORDER BY known_at DESC, telemetry.rowid DESC
    ) = 1
),
weighted AS (
    SELECT
        *,
        -- a reading counts until the next one or the interval's end
        epoch_us(coalesce(
            lead(measured_at) OVER (PARTITION BY device_id, interval_start ORDER BY measured_at),
            interval_start + INTERVAL 15 MINUTE
        )) - epoch_us(measured_at) AS weight_us
    FROM known
)
SELECT
    device_id,
    interval_start,
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
GROUP BY device_id, interval_start
ORDER BY device_id, interval_start
