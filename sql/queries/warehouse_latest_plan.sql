-- One row, or none: the newest plan of $delivery_day that was released by $as_of.
SELECT plans.*, released_at
FROM plans
JOIN plan_releases USING (plan_id)
WHERE delivery_day = $delivery_day AND as_of <= $as_of AND released_at <= $as_of
ORDER BY plan_version DESC
LIMIT 1
