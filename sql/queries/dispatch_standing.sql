-- Per device, the newest set-point it was sent up to an interval by other commands than this
-- plan's for it: what may still stand, and who came later.
SELECT device_id, command_id, plan_version, interval_start, setpoint_kw
FROM commands
SEMI JOIN (
    SELECT command_id
    FROM command_events
    WHERE state = 'SENT' AND command_events.at >= $interval_start - INTERVAL 3 DAY
) AS sent USING (command_id)
WHERE interval_start <= $interval_start
    AND interval_start > $interval_start - INTERVAL 1 DAY
    AND valid_until > $interval_start
    AND kind = 'set_point'
    AND NOT (interval_start = $interval_start AND plan_version = $plan_version)
QUALIFY
    row_number() OVER (PARTITION BY device_id ORDER BY interval_start DESC, plan_version DESC) = 1
