-- The schedules of a delivery day's released plans, oldest plan first.
SELECT plan_version, device_id, interval_start, power_kw, limit_kw
FROM schedules
JOIN plans USING (plan_id)
JOIN plan_releases USING (plan_id)
WHERE delivery_day = $delivery_day AND released_at <= $as_of
ORDER BY plan_version, device_id, interval_start
