-- The commands of one interval, each with its last event and the set-point it was last offered.
SELECT
    commands.* EXCLUDE (created_at),
    arg_max(command_events.state, command_events.event_id) AS state,
    arg_max(command_events.at, command_events.event_id) AS state_at,
    arg_max(command_events.detail, command_events.event_id) AS detail,
    CAST(
        nullif(arg_max(command_events.sent, command_events.event_id)
            FILTER (WHERE command_events.state = 'SENT'), '') ->> '$.power_kw' AS DOUBLE
    ) AS offered_kw
FROM commands
JOIN command_events USING (command_id)
WHERE commands.interval_start = $interval_start
GROUP BY ALL
ORDER BY commands.device_id, commands.plan_version
