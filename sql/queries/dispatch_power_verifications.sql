-- How the power followed the set-points of the quarter-hours in [$start, $end_), as known at $as_of.
SELECT *
FROM power_verifications
WHERE interval_start >= $start AND interval_start < $end_ AND judged_at <= $as_of
ORDER BY interval_start, device_id
