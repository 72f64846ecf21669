-- A plan, if it was released.
SELECT plans.* FROM plans JOIN plan_releases USING (plan_id) WHERE plan_id = $plan_id
