-- The quarter-hours of a span in which a device was told offline.
SELECT DISTINCT
    device_id,
    time_bucket(INTERVAL 15 MINUTE, measured_at) AS "from",
    time_bucket(INTERVAL 15 MINUTE, measured_at) + INTERVAL 15 MINUTE AS "until"
FROM telemetry
WHERE measured_at >= $start AND measured_at < $end_ AND known_at <= $as_of AND status = 'offline'
ORDER BY ALL
