-- What one device was told for a moment, and what came of it, in order.
SELECT
    commands.command_id, plan_id, plan_version, interval_start, valid_until, planned_kw,
    setpoint_kw, guard_reason, event_id, state, command_events.at, actor, detail, sent, read_back
FROM commands
JOIN command_events USING (command_id)
WHERE device_id = $device_id AND valid_from <= $at AND $at < valid_until
ORDER BY event_id
