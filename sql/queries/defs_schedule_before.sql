-- The schedule of the newest plan of the same delivery day that was released before the plan
-- $plan_id; no row for a day's first.
WITH this AS (
    SELECT plan_version, delivery_day
    FROM plans
    WHERE plan_id = $plan_id
),
before AS (
    SELECT plans.plan_id
    FROM plans
    JOIN plan_releases USING (plan_id)
    JOIN this ON plans.delivery_day = this.delivery_day AND plans.plan_version < this.plan_version
    ORDER BY plans.plan_version DESC
    LIMIT 1
)
SELECT device_id, interval_start, power_kw, limit_kw
FROM schedules
WHERE plan_id IN (SELECT plan_id FROM before)
ORDER BY device_id, interval_start
