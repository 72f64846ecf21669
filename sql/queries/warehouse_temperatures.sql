-- One row a site of `sites` and quarter-hour in [$start, $end_): the temperature as last known at
-- $as_of.
SELECT site_id, interval_start, temperature_c, kind, known_at
FROM weather
SEMI JOIN sites USING (site_id)
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
-- a few long windows are quicker than one for each quarter-hour
QUALIFY lead(interval_start) OVER (PARTITION BY site_id ORDER BY interval_start, known_at)
    IS DISTINCT FROM interval_start
ORDER BY site_id, interval_start
