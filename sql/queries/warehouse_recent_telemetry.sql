-- All readings measured in [$start, $as_of] and known at $as_of, for what a single one can't tell.
SELECT *
FROM telemetry
WHERE measured_at >= $start AND measured_at <= $as_of AND known_at <= $as_of
ORDER BY device_id, measured_at, known_at, rowid
