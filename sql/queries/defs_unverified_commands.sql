-- Of a span's quarter-hours, each device's newest set-point whose last state is not VERIFIED,
-- newest first.
SELECT device_id, interval_start, state, detail
FROM (
    SELECT command_id, device_id, interval_start
    FROM commands
    WHERE interval_start >= $start AND interval_start < $end_ AND kind = 'set_point'
    QUALIFY
        row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
) AS newest
JOIN (
    SELECT command_id, arg_max(state, event_id) AS state, arg_max(detail, event_id) AS detail
    FROM command_events
    GROUP BY command_id
) AS last_events USING (command_id)
WHERE state <> 'VERIFIED'
ORDER BY interval_start DESC, device_id
