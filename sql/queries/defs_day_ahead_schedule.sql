-- The schedule of a delivery day's first released day-ahead plan.
SELECT device_id, interval_start, power_kw
FROM schedules
WHERE plan_id = (
    SELECT plan_id
    FROM plans
    JOIN plan_releases USING (plan_id)
    WHERE delivery_day = $delivery_day AND kind = 'day_ahead'
    ORDER BY revision
    LIMIT 1
)
ORDER BY device_id, interval_start
