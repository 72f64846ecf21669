-- One row, or none: the newest released plan of a delivery day.
SELECT plans.*
FROM plans
JOIN plan_releases USING (plan_id)
WHERE delivery_day = $delivery_day AND released_at <= $as_of
ORDER BY plan_version DESC
LIMIT 1
