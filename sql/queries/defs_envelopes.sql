-- The newest envelopes of a span known at $as_of, all from one moment.
SELECT * EXCLUDE (known_at)
FROM envelopes
WHERE interval_start >= $start AND interval_start < $end_
  AND known_at = (
      SELECT max(known_at)
      FROM envelopes
      WHERE interval_start >= $start AND interval_start < $end_ AND known_at <= $as_of
  )
ORDER BY device_id, interval_start
