-- How many readings measured since $start break each rule, by device, as known at $as_of.
SELECT
    device_id,
    signal,
    rule,
    count(DISTINCT (measured_at, reading_known_at)) AS readings,
    min(measured_at) AS first_at,
    max(measured_at) AS last_at
FROM telemetry_flags
WHERE measured_at >= $start AND known_at <= $as_of
GROUP BY device_id, signal, rule
ORDER BY readings DESC, device_id, signal, rule
