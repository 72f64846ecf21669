-- One row a subject and quarter-hour in [$start, $end_): $target as last forecast by $as_of.
SELECT *
FROM forecasts
WHERE target = $target AND interval_start >= $start AND interval_start < $end_
    AND known_at <= $as_of
QUALIFY row_number() OVER (
    PARTITION BY subject_id, interval_start ORDER BY known_at DESC, forecasts.rowid DESC
) = 1
ORDER BY subject_id, interval_start
