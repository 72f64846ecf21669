-- One row a device: its newest reading of the last day, as known at $as_of.
SELECT unnest(arg_max(telemetry, (measured_at, known_at, telemetry.rowid)))
FROM telemetry
WHERE measured_at > $as_of - INTERVAL 1 DAY AND measured_at <= $as_of AND known_at <= $as_of
GROUP BY device_id
ORDER BY device_id
