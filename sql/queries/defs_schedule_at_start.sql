-- Per device and quarter-hour of a span, the plan in force when the quarter-hour began.
SELECT plan_id, plan_version, device_id, interval_start, power_kw, limit_kw, energy_kwh
FROM schedules
JOIN plans USING (plan_id)
JOIN plan_releases USING (plan_id)
WHERE interval_start >= $start AND interval_start < $end_ AND released_at <= interval_start
QUALIFY row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
ORDER BY device_id, interval_start
