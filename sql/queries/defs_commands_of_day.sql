-- Per device and quarter-hour of a span, the newest plan's command and how it ended.
SELECT device_id, interval_start, setpoint_kw, state
FROM commands
JOIN (
    SELECT command_id, arg_max(state, event_id) AS state FROM command_events GROUP BY command_id
) USING (command_id)
WHERE interval_start >= $start AND interval_start < $end_ AND kind = 'set_point'
QUALIFY row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
ORDER BY device_id, interval_start
