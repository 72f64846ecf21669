-- One row, or none: a device's envelope of one quarter-hour, of the newest set that covered
-- [$start, $end_) and was known at $as_of.
SELECT *
FROM envelopes
WHERE device_id = $device_id AND interval_start = $interval_start
    AND known_at = (
        SELECT max(known_at)
        FROM envelopes
        WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
    )
