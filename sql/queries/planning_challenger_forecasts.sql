-- What the challengers said of [$start, $end_) by $as_of: all of it, a row a quarter-hour, once.
SELECT DISTINCT *
FROM challenger_forecasts
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
ORDER BY target, forecaster, subject_id, interval_start, known_at
