-- One row a site and quarter-hour in [$start, $end_): the weather as last known at $as_of.
SELECT *
FROM weather
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY site_id, interval_start ORDER BY known_at DESC) = 1
ORDER BY site_id, interval_start
