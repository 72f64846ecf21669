-- Delivery days from $from_day on that have a plan released by $as_of.
SELECT DISTINCT delivery_day
FROM plans JOIN plan_releases USING (plan_id)
WHERE delivery_day >= $from_day AND released_at <= $as_of
ORDER BY delivery_day
