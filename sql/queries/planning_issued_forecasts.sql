-- The forecasts of [$start, $end_) that the day was sold on: per target, of one moment, the last by
-- $gate_closure, else the last before the day began. A published price is no forecast.
WITH moments AS (
    SELECT
        target,
        coalesce(
            max(known_at) FILTER (WHERE known_at <= $gate_closure), max(known_at)
        ) AS known_at
    FROM forecasts
    WHERE interval_start >= $start AND interval_start < $end_
        AND known_at <= $start AND known_at <= $as_of
    GROUP BY target
)
SELECT DISTINCT forecasts.*
FROM forecasts
JOIN moments USING (target, known_at)
WHERE interval_start >= $start AND interval_start < $end_ AND model <> 'published'
ORDER BY target, subject_id, interval_start
