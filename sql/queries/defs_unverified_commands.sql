-- The commands of a span's quarter-hours whose last state is not VERIFIED, newest first.
SELECT device_id, interval_start, state, detail
FROM commands
JOIN (
    SELECT command_id, arg_max(state, event_id) AS state, arg_max(detail, event_id) AS detail
    FROM command_events
    GROUP BY command_id
) AS last_events USING (command_id)
WHERE interval_start >= $start AND interval_start < $end_ AND state <> 'VERIFIED'
ORDER BY interval_start DESC, device_id
