-- The newest delivery scores known at $as_of, of devices that were asked for power since $since.
SELECT *
FROM delivery_scores
WHERE known_at = (SELECT max(known_at) FROM delivery_scores WHERE known_at <= $as_of)
    AND last_interval >= $since
ORDER BY device_id, direction
