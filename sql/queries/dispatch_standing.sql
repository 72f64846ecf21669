-- Per device, the newest set-point it was sent up to an interval by other commands than this
-- plan's for it: what may still stand, and who came later.
WITH lasting AS (
    SELECT command_id, device_id, plan_version, interval_start, setpoint_kw, created_at
    FROM commands
    WHERE interval_start <= $interval_start
        AND interval_start > $interval_start - INTERVAL 1 DAY
        AND valid_until > $interval_start
        AND kind = 'set_point'
        AND NOT (interval_start = $interval_start AND plan_version = $plan_version)
)
SELECT device_id, command_id, plan_version, interval_start, setpoint_kw
FROM lasting
SEMI JOIN (
    SELECT command_id
    FROM command_events
    WHERE state = 'SENT' AND command_events.at >= (SELECT min(created_at) FROM lasting) - INTERVAL 3 HOUR
) AS sent USING (command_id)
QUALIFY
    row_number() OVER (PARTITION BY device_id ORDER BY interval_start DESC, plan_version DESC) = 1
