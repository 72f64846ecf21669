-- Per target, subject and quarter-hour of a span, the last forecast made before the span began.
SELECT *
FROM forecasts
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $start
QUALIFY row_number() OVER (
    PARTITION BY target, subject_id, interval_start ORDER BY known_at DESC
) = 1
ORDER BY target, subject_id, interval_start
