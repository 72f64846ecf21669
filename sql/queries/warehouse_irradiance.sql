-- The weather of [$start, $end_) known at $as_of, where it tells the irradiance.
SELECT site_id, interval_start, ghi_w_per_m2, kind, known_at
FROM weather
WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
    AND ghi_w_per_m2 IS NOT NULL
ORDER BY site_id, interval_start, known_at, kind
