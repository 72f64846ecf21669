-- The sessions that the day [$start, $end_) was sold on: of one moment, the last by $gate_closure
-- at which it was forecast, else the last before the day began. The day's own row (probability 0)
-- begins with it, so that a forecast that expects nobody counts too.
WITH moment AS (
    SELECT
        coalesce(
            max(known_at) FILTER (WHERE known_at <= $gate_closure), max(known_at)
        ) AS known_at
    FROM session_forecasts
    WHERE arrival_p50 >= $start AND arrival_p50 < $end_
        AND known_at <= $start AND known_at <= $as_of
)
SELECT DISTINCT session_forecasts.*
FROM session_forecasts
JOIN moment USING (known_at)
WHERE departure_p90 > $start AND arrival_p10 < $end_ AND probability > 0
ORDER BY device_id, arrival_p50
