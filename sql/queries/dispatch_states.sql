-- The commands of one interval, each with its last event and the set-point it was last offered.
-- No event is older than two days before its interval: older ones need not be read.
SELECT
    commands.* EXCLUDE (created_at),
    arg_max(command_events.state, command_events.event_id) AS state,
    arg_max(command_events.at, command_events.event_id) AS state_at,
    arg_max(command_events.detail, command_events.event_id) AS detail,
    arg_max(command_events.requested_kw, command_events.event_id) AS offered_kw
FROM commands
JOIN command_events USING (command_id)
WHERE commands.interval_start = $interval_start
    AND command_events.at >= $interval_start - INTERVAL 2 DAY
GROUP BY ALL
ORDER BY commands.device_id, commands.plan_version
