-- Every replay of a delivery day, in the order they were made.
SELECT * EXCLUDE (stage_seconds)
FROM replays
WHERE delivery_day = $delivery_day
ORDER BY replayed_at, replay_id
