-- Released plans whose horizon touches [$start, $end_].
SELECT plan_id, plan_version, revision, horizon_start, horizon_end
FROM plans
JOIN plan_releases USING (plan_id)
WHERE horizon_start <= $end_ AND horizon_end > $start AND released_at <= $as_of
ORDER BY plan_version
