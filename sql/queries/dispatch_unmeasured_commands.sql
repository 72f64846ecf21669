-- Of the quarter-hours in [$start, $end_), each device's newest set-point that stood at it and
-- whose power was not yet held against it, with what it was last offered and from when. One that a
-- release has ended is left out.
WITH newest AS (
    SELECT command_id, device_id, interval_start, valid_from, setpoint_kw
    FROM commands
    WHERE interval_start >= $start AND interval_start < $end_ AND kind = 'set_point'
    QUALIFY
        row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
),
told AS (
    SELECT
        command_id,
        arg_max(state, event_id) AS state,
        arg_max(requested_kw, event_id) AS offered_kw,
        max(command_events.at) FILTER (WHERE state = 'SENT') AS sent_at
    FROM command_events
    SEMI JOIN newest USING (command_id)
    WHERE command_events.at >= $start - INTERVAL 3 HOUR
    GROUP BY command_id
),
released AS (
    SELECT device_id, interval_start, max(valid_from) AS released_at
    FROM commands
    WHERE interval_start >= $start AND interval_start < $end_ AND kind = 'release'
    GROUP BY device_id, interval_start
)
SELECT
    command_id, device_id, interval_start,
    coalesce(offered_kw, setpoint_kw) AS setpoint_kw,
    greatest(valid_from, sent_at) AS told_at
FROM newest
JOIN told USING (command_id)
LEFT JOIN released USING (device_id, interval_start)
ANTI JOIN power_verifications USING (command_id)
WHERE list_contains($accepted, state) AND (released_at IS NULL OR released_at < told_at)
ORDER BY interval_start, device_id
