-- Per device and quarter-hour of a span, the row of the highest released plan known at $as_of.
SELECT plan_id, plan_version, delivery_day, revision, device_id, interval_start, power_kw, limit_kw, energy_kwh
FROM schedules
JOIN plans USING (plan_id)
JOIN plan_releases USING (plan_id)
WHERE interval_start >= $start AND interval_start < $end_ AND released_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY device_id, interval_start ORDER BY plan_version DESC) = 1
ORDER BY device_id, interval_start
