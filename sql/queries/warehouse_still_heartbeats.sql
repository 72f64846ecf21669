-- Since when the heartbeat of each device's newest reading has stood still: the first reading from
-- $since on, as known at $as_of, that had it too. Of a heartbeat that moved last, no row.
WITH recent AS (
    SELECT device_id, measured_at, known_at, telemetry.rowid AS place, heartbeat
    FROM telemetry
    WHERE measured_at >= $since AND measured_at <= $as_of AND known_at <= $as_of
),
newest AS (
    SELECT
        device_id,
        max(measured_at) AS measured_at,
        arg_max_null(heartbeat, (measured_at, known_at, place)) AS heartbeat
    FROM recent
    GROUP BY device_id
)
SELECT recent.device_id, min(recent.measured_at) AS measured_at, heartbeat
FROM recent
JOIN newest USING (device_id, heartbeat)
WHERE recent.measured_at < newest.measured_at
GROUP BY recent.device_id, heartbeat
ORDER BY recent.device_id
