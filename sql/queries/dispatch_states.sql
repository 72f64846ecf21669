-- The commands of one interval, each with its last event and the set-point it was last offered.
WITH mine AS (
    SELECT * FROM commands WHERE interval_start = $interval_start
)
SELECT
    mine.* EXCLUDE (created_at),
    arg_max(command_events.state, command_events.event_id) AS state,
    arg_max(command_events.at, command_events.event_id) AS state_at,
    arg_max(command_events.detail, command_events.event_id) AS detail,
    arg_max(command_events.requested_kw, command_events.event_id) AS offered_kw
FROM mine
JOIN command_events USING (command_id)
WHERE command_events.at >= (SELECT min(created_at) FROM mine) - INTERVAL 3 HOUR
GROUP BY ALL
ORDER BY mine.device_id, mine.plan_version
