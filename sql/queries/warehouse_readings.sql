-- The readings of `devices` in [$start, $end_) known at $as_of: by device, in time order, of one
-- instant the correction last.
-- Devices are sorted by number: long names are slow to compare over tens of millions of readings.
WITH numbered AS (
    SELECT device_id, row_number() OVER (ORDER BY device_id) AS place FROM devices
)
SELECT telemetry.*
FROM telemetry
JOIN numbered USING (device_id)
WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of
ORDER BY place, measured_at, known_at, telemetry.rowid
