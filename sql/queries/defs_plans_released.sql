-- The released plans of a delivery day, oldest first.
SELECT
    plan_id, plan_version, delivery_day, revision, cause,
    coalesce(cause_kind, cause) AS cause_kind
FROM plans
JOIN plan_releases USING (plan_id)
WHERE delivery_day = $delivery_day AND released_at <= $as_of
ORDER BY plan_version
