-- The newest plan of a delivery day, released or not.
SELECT plans.*, released_at
FROM plans
LEFT JOIN plan_releases USING (plan_id)
WHERE delivery_day = $delivery_day
ORDER BY plan_version DESC
LIMIT 1
