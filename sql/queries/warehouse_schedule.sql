-- One row a device and quarter-hour of the plan $plan_id.
SELECT device_id, interval_start, power_kw, limit_kw, energy_kwh
FROM schedules
WHERE plan_id = $plan_id
ORDER BY device_id, interval_start
