-- One row: the start of the newest quarter-hour whose observed weather is known at $as_of, and when
-- the newest weather forecast became known.
SELECT
    max(interval_start) FILTER (WHERE kind = 'observed') AS known_until,
    max(known_at) FILTER (WHERE kind = 'forecast') AS foretold_at
FROM weather
WHERE known_at <= $as_of
