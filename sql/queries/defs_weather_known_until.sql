-- One row: the start of the newest quarter-hour whose observed weather is known at $as_of.
SELECT max(interval_start) AS known_until
FROM weather
WHERE kind = 'observed' AND known_at <= $as_of
