-- What `warehouse_readings` tells of vehicles, and what it is judged by: most of a row of
-- telemetry is null for a charger.
WITH numbered AS (
    SELECT device_id, row_number() OVER (ORDER BY device_id) AS place FROM devices
)
SELECT
    device_id, measured_at, power_kw, energy_kwh, plugged_in, target_energy_kwh, deadline,
    heartbeat, status, known_at
FROM telemetry
JOIN numbered USING (device_id)
WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
ORDER BY place, measured_at, known_at, telemetry.rowid
