-- The powers of `warehouse_readings` and what they are judged by: most of a
-- fleet's history is asked for no more.
WITH numbered AS (
    SELECT device_id, row_number() OVER (ORDER BY device_id) AS place FROM devices
)
SELECT device_id, measured_at, power_kw, available_power_kw, setpoint_kw, status, known_at
FROM telemetry
JOIN numbered USING (device_id)
WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
ORDER BY place, measured_at, known_at, telemetry.rowid
