-- One row, or none: the newest plan released by $as_of whose horizon covers $moment.
SELECT plans.*, released_at
FROM plans
JOIN plan_releases USING (plan_id)
WHERE horizon_start <= $moment AND $moment < horizon_end
    AND as_of <= $as_of AND released_at <= $as_of
ORDER BY plan_version DESC
LIMIT 1
