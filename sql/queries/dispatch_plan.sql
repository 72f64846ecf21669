-- One row, or none: the plan $plan_id, with when it was released (null: not).
SELECT plans.*, released_at
FROM plans
LEFT JOIN plan_releases USING (plan_id)
WHERE plan_id = $plan_id
