-- What one device was told for a moment or its quarter-hour, and what came of it, in order; with
-- each event whether the power followed its command in the end.
WITH told AS (
    SELECT *
    FROM commands
    WHERE interval_start > $at - INTERVAL 1 DAY
        AND device_id = $device_id
        AND $at < valid_until
        AND (valid_from <= $at OR interval_start = time_bucket(INTERVAL 15 MINUTE, $at))
)
SELECT
    told.command_id, kind, plan_id, plan_version, told.interval_start, valid_from, valid_until,
    planned_kw, setpoint_kw, guard_reason, event_id, state, command_events.at, actor,
    coalesce(command_events.authority, told.authority) AS authority,
    coalesce(command_events.order_id, told.order_id) AS order_id,
    detail, old_kw, requested_kw, sent, acknowledged, read_back, fence,
    measured_kw, power_verified, power_verifications.reason AS power_reason
FROM told
JOIN command_events USING (command_id)
LEFT JOIN power_verifications USING (command_id)
WHERE command_events.at >= (SELECT min(created_at) FROM told) - INTERVAL 3 HOUR
ORDER BY event_id
