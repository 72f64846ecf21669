-- The newest plan of a delivery day made by $as_of, released by then or not.
SELECT plans.*, released_at
FROM plans
LEFT JOIN (SELECT * FROM plan_releases WHERE released_at <= $as_of) USING (plan_id)
WHERE delivery_day = $delivery_day AND as_of <= $as_of
ORDER BY plan_version DESC
LIMIT 1
