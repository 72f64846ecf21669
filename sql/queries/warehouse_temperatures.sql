-- One row a site of `sites` and quarter-hour in [$start, $end_): the temperature as last known at
-- $as_of.
-- Sites are sorted by number: long names are slow to compare over millions of rows.
WITH numbered AS (
    SELECT site_id, row_number() OVER (ORDER BY site_id) AS place FROM sites
)
SELECT site_id, interval_start, temperature_c, kind, known_at
FROM weather
JOIN numbered USING (site_id)
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
-- a few long windows are quicker than one for each quarter-hour
QUALIFY lead(interval_start) OVER (PARTITION BY place ORDER BY interval_start, known_at)
    IS DISTINCT FROM interval_start
ORDER BY place, interval_start
