-- Commands of the day before $now whose time is over while they are in no final state: a
-- set-point's with its quarter-hour, a release's with its validity.
SELECT command_id, arg_max(state, event_id) AS state
FROM commands
JOIN command_events USING (command_id)
WHERE CASE kind WHEN 'release' THEN valid_until ELSE interval_start + INTERVAL 15 MINUTE END <= $now
    AND interval_start > $now - INTERVAL 1 DAY
    AND command_events.at >= $now - INTERVAL 3 DAY
GROUP BY command_id
HAVING NOT list_contains($final, arg_max(state, event_id))
ORDER BY command_id
