-- One row an expected session that may overlap [$start, $end_): each device's last forecast by $as_of.
SELECT *
FROM session_forecasts
WHERE departure_p90 > $start AND arrival_p10 < $end_ AND known_at <= $as_of
QUALIFY known_at = max(known_at) OVER (PARTITION BY device_id)
ORDER BY device_id, arrival_p50
