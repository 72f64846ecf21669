-- Per device, the newest set-point of one interval, with its last event, when it was made and
-- what it was last offered.
SELECT
    newest.*,
    arg_max(command_events.state, command_events.event_id) AS state,
    arg_max(command_events.at, command_events.event_id) AS state_at,
    arg_max(command_events.detail, command_events.event_id) AS detail,
    arg_max(command_events.requested_kw, command_events.event_id) AS offered_kw
FROM (
    SELECT *
    FROM commands
    WHERE interval_start = $interval_start AND kind = 'set_point'
    QUALIFY row_number() OVER (PARTITION BY device_id ORDER BY plan_version DESC) = 1
) AS newest
JOIN command_events USING (command_id)
WHERE command_events.at >= $interval_start - INTERVAL 2 DAY
GROUP BY ALL
ORDER BY device_id
