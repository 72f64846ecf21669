-- One row an expected session that may overlap [$start, $end_): of each device those of its last
-- issue by $as_of, found by the row of probability 0 that says which day was forecast: it may expect
-- nobody any more. An issue without such rows, as they were once kept, counts by its sessions.
SELECT *
FROM session_forecasts
WHERE departure_p90 > $start AND arrival_p10 < $end_ AND known_at <= $as_of
QUALIFY probability > 0 AND known_at = coalesce(
    max(known_at) FILTER (WHERE probability = 0) OVER (PARTITION BY device_id),
    max(known_at) OVER (PARTITION BY device_id)
)
ORDER BY device_id, arrival_p50
