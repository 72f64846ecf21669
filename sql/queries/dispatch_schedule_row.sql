-- One row, or none: what the plan $plan_id has for one device and quarter-hour, and what a kWh of
-- the fleet's power is worth in it then.
SELECT schedules.*, energy_eur_per_kwh, peak_eur_per_kw
FROM schedules
LEFT JOIN plan_prices USING (plan_id, interval_start)
WHERE plan_id = $plan_id AND device_id = $device_id AND interval_start = $interval_start
